"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from policyc.diagnostics import OperationError


def write(path: Path, data: bytes) -> None:
    """Replaces `path` with `data` at once, keeping its mode; `-` is standard output, a device is written to.

    Raises `OperationError` where the file cannot be written; what was there stays."""
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        _write(Path(os.path.realpath(path)), data)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a file name"
        raise OperationError(
            f"{path} cannot be written: {reason}", "give a file in a folder you may write to"
        ) from None


def _write(path: Path, data: bytes) -> None:
    mode = 0o666 & ~_umask()
    if path.exists():
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            path.write_bytes(data)
            return
        mode = stat.S_IMODE(status.st_mode)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """The process's mask; reading it means setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
