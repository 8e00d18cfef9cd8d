"""Streams judged by the kernel: on real sockets, in namespaces of their own (`policyc.stream_worker`)."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.model import Endpoint
from policyc.reference.world import Address
from policyc.runtime.cgroups import mount_point
from policyc.stream_worker import Report, Setting, Stream, Unplayable, receive, send

GROUPS = ("client", "server", "free")
_numbers = itertools.count()


class KernelStreams:
    """An artifact loaded where nothing else is. Made when the first stream is played; `close`, or the end of this process, takes all of it away."""

    def __init__(self, artifact: Artifact, endpoints: Iterable[Endpoint], host: Iterable[Address]) -> None:
        """Raises `OperationError` where that cannot be done here."""
        self._top = mount_point() / f"policyc-eval-{os.getpid()}-{next(_numbers)}"
        folder = tempfile.mkdtemp(prefix="policyc-eval-")
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = _nothing
        try:
            client, server, free = self._make_cgroups()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "policyc.stream_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except BaseException:
            _take_away(self._process, self._top, folder)
            raise
        self._end = weakref.finalize(self, _take_away, self._process, self._top, folder)
        try:
            self._ask(Setting(artifact.object, tuple(endpoints), tuple(host), (client, server), free, folder))
        except BaseException:
            self.close()
            raise

    def _make_cgroups(self) -> list[str]:
        paths = [self._top / name for name in GROUPS]
        for path in paths:
            try:
                path.mkdir(parents=True)
            except OSError as failure:
                raise OperationError(
                    f"cannot make the cgroup {path}: {failure.strerror}",
                    "streams are played in cgroups of their own: it takes root and a writable cgroup2 mount",
                    3,
                ) from None
        return list(map(str, paths))

    def play(self, stream: Stream) -> Report:
        """Raises Unplayable where sockets cannot have these ends, `OperationError` where it fails."""
        answer = self._ask(stream)
        assert isinstance(answer, Report)
        return answer

    def _ask(self, message: object) -> object:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            send(self._process.stdin, message)  # type: ignore[arg-type]
            answer = receive(self._process.stdout)  # type: ignore[arg-type]
        except (BrokenPipeError, EOFError):
            raise OperationError("the process that plays streams has ended") from None
        if isinstance(answer, OperationError | Unplayable):
            raise answer
        if answer is None and not isinstance(message, Setting):
            raise OperationError("the process that plays streams has ended")
        return answer

    def close(self) -> None:
        self._end()


def _nothing() -> None:
    pass


def _take_away(process: subprocess.Popen[bytes] | None, top: Path, folder: str) -> None:
    if process is not None:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
    for path in (*(top / name for name in GROUPS), top):
        _remove(path)
    shutil.rmtree(folder, ignore_errors=True)


def _remove(cgroup: Path) -> None:
    """A group stays busy for a moment after its last process ended."""
    for _ in range(100):
        try:
            cgroup.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
