"""A command in an emulated machine: a Debian kernel under QEMU's software emulation, with the files of this machine.

The guest sees a root folder of this machine read-only; what it writes stays in its memory and ends with it. It has no
network. The command runs as the guest's root, and may do there what the kernel permits."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from archive import Kernel, Unavailable, busybox, closure

EARLY = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
# Without `erms` and `fsrm` the guest's kernel copies words, not bytes: that is faster here, and no program sees half of a
# word that is written to a map, as byte-wise copies of the emulator let it.
EMULATORS = {
    "amd64": ("qemu-system-x86_64", "qemu-system-x86", ["-machine", "q35", "-cpu", "max,-erms,-fsrm"], "ttyS0"),
    "arm64": ("qemu-system-aarch64", "qemu-system-arm", ["-machine", "virt", "-cpu", "cortex-a72"], "ttyAMA0"),
}
INIT = Path(__file__).with_name("init.sh")
HERE, FILES = Path("/"), Path("/run/guest/files")  # this machine's files: here, and in a guest with a root of its own
MEMORY = 2048  # MiB, of which the machine takes only what the guest touches


class Died(Exception):
    """The guest ended before its command did; the text is the end of what its kernel said."""


class TimedOut(Died):
    """It was ended because its time was over."""


def emulator(architecture: str) -> str:
    """The path of QEMU. Raises `Unavailable` with what to install."""
    command, package, _, _ = EMULATORS[architecture]
    path = shutil.which(command)
    if path is None:
        raise Unavailable(f"there is no {command} (Debian: apt install --no-install-recommends {package})")
    return path


def run(
    kernel: Kernel,
    command: Sequence[str],
    *,
    root: Path = HERE,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    time_limit: float | None = None,
    output: IO[bytes] | None = None,
) -> int:
    """Runs `command` in `folder` (a path in the guest), its output going to `output` (where ours goes) as it comes;
    returns its exit code. `root` is the guest's root folder; where it is another than this machine's, this machine's
    files are found below `FILES`.

    Raises `Unavailable` without an emulator, `Died` if the guest does, `TimedOut` after `time_limit` seconds."""
    qemu = emulator(kernel.architecture)
    _, _, machine, console = EMULATORS[kernel.architecture]
    with tempfile.TemporaryDirectory(prefix="policyc-guest-") as scratch:
        initrd, log, status = (Path(scratch) / name for name in ("initrd", "log", "status"))
        initrd.write_bytes(_initrd(kernel, command, folder or Path.cwd(), environment or {}))
        status.touch()
        arguments = [
            "setpriv", "--pdeathsig", "KILL",  # the guest ends with us, however we end
            qemu, *machine, "-accel", "tcg", "-smp", str(min(len(os.sched_getaffinity(0)), 2)), "-m", str(MEMORY),
            "-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{log}",
            "-kernel", str(kernel.image), "-initrd", str(initrd),
            "-append", f"console={console} loglevel=4 panic=-1",
            "-device", "virtio-serial-pci",
            "-chardev", "file,id=out,path=/proc/self/fd/1,append=on", "-device", "virtserialport,chardev=out,name=out",
            "-chardev", f"file,id=status,path={status}", "-device", "virtserialport,chardev=status,name=status",
            *_shared("root", root), *_shared("kernel", kernel.folder), *(_shared("files", HERE) if root != HERE else []),
        ]  # fmt: skip
        # QEMU opens its standard output anew, which only a pipe of our own is sure to permit.
        with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            ends = threading.Timer(time_limit, process.kill) if time_limit else None
            try:
                if ends is not None:
                    ends.start()
                _copy(process.stdout, output or sys.stdout.buffer)
                late = ends is not None and not ends.is_alive()
            finally:
                process.kill()
                if ends is not None:
                    ends.cancel()
        said = status.read_text().strip()
        if said:
            return int(said)
        if late:
            raise TimedOut(f"not done after {time_limit} s; its kernel's last words:\n{_end(log)}")
        raise Died(f"it died; its kernel's last words:\n{_end(log)}")


def _copy(source: IO[bytes] | None, target: IO[bytes]) -> None:
    assert source is not None
    while part := os.read(source.fileno(), 1 << 16):
        target.write(part)
        target.flush()


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) or "nothing"


def _shared(name: str, path: Path) -> list[str]:
    # QEMU's own separator is doubled where it is meant.
    options = f"local,id={name},path={str(path).replace(',', ',,')},security_model=none,readonly=on,multidevs=remap"
    return ["-fsdev", options, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]


def _initrd(kernel: Kernel, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> bytes:
    """An archive with busybox, what it takes to reach the root folder, and the command as a script."""
    early = closure(kernel, EARLY)
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/guest/bin",
        "HOME": "/root",
        **environment,
    }
    job = [
        f"cd {shlex.quote(str(folder))} || exit 1",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        f"exec {shlex.join(command)}",
    ]
    files: dict[str, tuple[int, bytes]] = {
        "init": (0o755, INIT.read_bytes()),
        "bin/busybox": (0o755, busybox(kernel.architecture).read_bytes()),
        "job": (0o644, "\n".join(job).encode() + b"\n"),
        "early": (0o644, "".join(f"/modules/{path.name}\n" for path in early).encode()),
        **{f"modules/{path.name}": (0o644, (kernel.modules / path).read_bytes()) for path in early},
    }
    return _cpio(files, ("bin", "modules", "proc", "sys", "dev", "root", "upper", "whole"))


def _cpio(files: Mapping[str, tuple[int, bytes]], folders: Sequence[str]) -> bytes:
    """A cpio archive in the `newc` format (Linux Documentation/driver-api/early-userspace/buffer-format.rst)."""
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    entries += [(name, stat.S_IFREG | mode, content) for name, (mode, content) in files.items()]
    made = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        made += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        made += bytes(-len(made) % 4)
        made += content
        made += bytes(-len(made) % 4)
    return bytes(made)
