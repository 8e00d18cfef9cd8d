"""A cgroup of one's own, in which servers and clients of the examples run; it ends with the `with` statement, and so does what still runs in it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from types import TracebackType

from private_network import Unavailable

from policyc.diagnostics import OperationError
from policyc.runtime.cgroups import mount_point

JOIN = 'echo $$ >"$0"/cgroup.procs && exec "$@"'
PATIENCE = 5  # seconds until a group is empty


class Cgroup:
    """A folder `NAME-PID` below the cgroup v2 mount, made on entry. Raises `Unavailable` where none can be made."""

    def __init__(self, name: str) -> None:
        self._name = f"{name}-{os.getpid()}"

    def __enter__(self) -> Cgroup:
        try:
            self.path = mount_point() / self._name
            self.path.mkdir()
        except OperationError as error:
            raise Unavailable(error.message) from None
        except OSError as error:
            raise Unavailable(f"no cgroup can be made: {error}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for pid in (self.path / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with suppress(OSError):  # busy until the last process is gone
                self.path.rmdir()
                return
            time.sleep(0.02)

    def command(self, *arguments: str) -> list[str]:
        """`arguments`, run inside."""
        return ["sh", "-c", JOIN, str(self.path), *arguments]
