"""A process in a place of its own that calls functions when told, and hands back what they return.

Threads can enter a network namespace, but a socket belongs to the cgroup of its process: so who connects or listens in a test
is a process of its own. `python -m tests.l7.agent` reads pickled `(function, arguments)` from its input and answers each with a pickled
`(ok, result or exception)`, both behind their length (4 bytes, network order). What a function starts in threads goes on between calls."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

if __name__ != "__main__":
    sys.path.append(str(Path(__file__).parents[2] / "examples"))
    from private_network import Namespace, end_process

from tests.l7.waiting import readable

ROOT = Path(__file__).parents[2]
LENGTH = struct.Struct("!I")
P, R = ParamSpec("P"), TypeVar("R")


class Silent(Exception):
    """An agent did not answer in time, or has ended."""


def joining(group: Path | None, *command: str) -> list[str]:
    """A command that enters a cgroup before it starts."""
    return ["sh", "-c", f'echo $$ >"{group}/cgroup.procs" && exec "$@"', "sh", *command] if group else list(command)


class Agent:
    """Runs in a network namespace and, where given, in a cgroup; ends with the namespace, with this process, or by `close`."""

    def __init__(self, namespace: Namespace, group: Path | None = None) -> None:
        command = joining(group, sys.executable, "-m", "tests.l7.agent")
        paths = [str(ROOT), str(ROOT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": ":".join(paths)}
        self._process = namespace.start(
            *command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            self.pid = self.call(os.getpid, patience=30)
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[..., R], *arguments: Any, patience: float = 20, **named: Any) -> R:
        """Raises what the function raises, or `Silent` after `patience` seconds (the agent is then of no further use)."""
        self.begin(function, *arguments, **named)
        result: R = self.result(patience)
        return result

    def begin(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Begins a call whose `result` is fetched later; one at a time."""
        sent = pickle.dumps((function, arguments, named))
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(LENGTH.pack(len(sent)) + sent)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Silent(f"the agent has ended before {function.__name__}") from None

    def result(self, patience: float = 20) -> Any:
        end = time.monotonic() + patience
        (size,) = LENGTH.unpack(self._read(LENGTH.size, end))
        ok, result = pickle.loads(self._read(size, end))
        if not ok:
            raise result
        return result

    def _read(self, size: int, end: float) -> bytes:
        assert self._process.stdout is not None
        descriptor, found = self._process.stdout.fileno(), b""
        while len(found) < size:
            if not readable(descriptor, end - time.monotonic()):
                raise Silent("the agent does not answer")
            piece = os.read(descriptor, size - len(found))
            if not piece:
                raise Silent("the agent has ended")
            found += piece
        return found

    def move(self, group: Path) -> None:
        """Into another cgroup; sockets it has made stay where they were."""
        (group / "cgroup.procs").write_text(str(self.pid))

    def close(self) -> None:
        end_process(self._process)


def _take(source: BinaryIO) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None:
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    taken: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] = pickle.loads(source.read(*LENGTH.unpack(head)))
    return taken


def main() -> None:
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a function prints is no answer
    while (taken := _take(source)) is not None:
        function, arguments, named = taken
        try:
            answer = pickle.dumps((True, function(*arguments, **named)))
        except Exception as error:
            answer = pickle.dumps((False, error))
        sink.write(LENGTH.pack(len(answer)) + answer)
        sink.flush()


if __name__ == "__main__":
    main()
