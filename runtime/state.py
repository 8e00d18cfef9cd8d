"""What is remembered of a load outside the kernel: one folder a load, `/run/policyc/NAME` (`POLICYC_STATE` names
another root).

`lock` is held by whoever changes the load. `artifact-N.o` is the artifact of load N. `state.jsonl` has a header line, then one line an
operation on endpoints; a line is written before its operation and followed by `+` when it is done, so that whoever
comes after a killed process finishes what it began: the last line, if no `+` follows it. `next.jsonl` is the state of a load in the making, `leaving.jsonl` that
of one that is being unloaded.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from policyc.artifact import reader
from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.runtime import addresses, bpffs
from policyc.runtime.addresses import Address
from policyc.runtime.libbpf import CAPABILITIES, PERMISSION_OR_FEATURE
from policyc.runtime.names import PATTERN

DEFAULT_ROOT = "/run/policyc"
FORMAT, VERSION = "policyc-state", 1
LOCK_PATIENCE = 10.0  # seconds
DONE = b"+\n"


@dataclass
class Header:
    """The facts of a load that stay until it is replaced. `number` counts the loads under this name from 1; it names
    the artifact and the folder of pins. `netns` is the inode of the network namespace of its devices. `same_key` is hex. `streams`: its
    artifact has stream programs; `l7_deny`: endpoints whose streams nobody sees were accepted."""

    name: str
    number: int
    slot: int
    same_key: str
    events: str
    audit: bool
    netns: int
    source: str
    loaded_at: float
    specs: list[dict[str, Any]] = field(default_factory=list)
    host: list[str] = field(default_factory=list)
    host_listed: list[str] = field(default_factory=list)
    qdiscs: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    streams: bool = False
    l7_deny: bool = False
    entries: list[int] = field(default_factory=list)  # numbers of the attached programs, should their pins be lost


@dataclass
class Registered:
    """An endpoint of a load. `index` is its number in the maps, `slot` its identity's; `device` ([name, ifindex]) and
    `group` ([path, id, level]) are what `interface` and `cgroup` were when it was bound."""

    name: str
    index: int
    slot: int
    addresses: tuple[Address, ...]
    labels: dict[str, str]
    cgroup: str | None = None
    interface: str | None = None
    device: list[Any] | None = None
    group: list[Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "op": "put",
            "name": self.name,
            "index": self.index,
            "slot": self.slot,
            "addresses": [addresses.text(a) for a in self.addresses],
            "labels": self.labels,
            "cgroup": self.cgroup,
            "interface": self.interface,
            "device": self.device,
            "group": self.group,
        }

    @staticmethod
    def from_json(line: dict[str, Any]) -> Registered:
        fields = {k: v for k, v in line.items() if k != "op"}
        fields["addresses"] = tuple(addresses.read(a) for a in line["addresses"])
        return Registered(**fields)


@dataclass
class Snapshot:
    """A state file as read: what its `lines` finished operations led to. `host` are the addresses of class host, `gone` what operations
    replaced or removed, oldest first. `pending` is the operation that was begun and not finished, None if all were;
    `torn`: the last line was cut short by a kill."""

    header: Header
    host: set[Address]
    endpoints: dict[str, Registered] = field(default_factory=dict)
    gone: list[Registered] = field(default_factory=list)
    lines: int = 0
    pending: dict[str, Any] | None = None
    torn: bool = False

    def replay(self, line: dict[str, Any]) -> None:
        """Takes over one finished operation. Raises KeyError, TypeError or ValueError where it is none."""
        self.lines += 1
        match line["op"]:
            case "put":
                new = Registered.from_json(line)
                if new.name in self.endpoints:
                    self.gone.append(self.endpoints[new.name])
                self.endpoints[new.name] = new
            case "remove":
                self.gone.append(self.endpoints.pop(line["name"]))
            case "move":
                address = addresses.read(line["address"])
                giver, taker = self.endpoints[line["from"]], self.endpoints[line["to"]]
                kept = tuple(a for a in giver.addresses if a != address)
                self.endpoints[giver.name] = replace(giver, addresses=kept)
                self.endpoints[taker.name] = replace(taker, addresses=(*taker.addresses, address))
            case "host":
                self.host = {addresses.read(a) for a in line["addresses"]}
            case other:
                raise ValueError(other)


def root() -> Path:
    return Path(os.environ.get("POLICYC_STATE") or DEFAULT_ROOT)


def names() -> list[str]:
    """Names that have a state, or pins whose state was lost, sorted."""
    try:
        folders = sorted(root().iterdir())
    except FileNotFoundError:
        folders = []
    except OSError as failure:
        raise _unusable(root(), failure) from None
    pinned: set[str] = set()
    with suppress(OperationError, PermissionError):  # whoever may not look there sees those that have a state
        pinned = {p.name for p in bpffs.pins_in(bpffs.root()) if p.is_dir() and PATTERN.fullmatch(p.name)}
    return sorted(pinned | {p.name for p in folders if Store(p.name).exists()})


def made_qdiscs(netns: int) -> set[int]:
    """The devices of a network namespace on which policyc made the qdisc, whichever load it was."""
    found: set[int] = set()
    for name in names():
        try:
            with (root() / name / "state.jsonl").open("rb") as file:
                header = json.loads(file.readline())
            if header["netns"] == netns:
                found.update(header["qdiscs"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is being unloaded, or damaged
    return found


class Store:
    """The state folder of one load."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = root() / name
        self._lock = -1
        self._journal = -1

    def artifact(self, number: int) -> Path:
        return self.folder / f"artifact-{number}.o"

    @property
    def current(self) -> Path:
        return self.folder / "state.jsonl"

    @property
    def next(self) -> Path:
        return self.folder / "next.jsonl"

    @property
    def leaving(self) -> Path:
        return self.folder / "leaving.jsonl"

    def exists(self) -> bool:
        return any(bpffs.exists(path) for path in (self.current, self.next, self.leaving))

    def read_artifact(self, number: int) -> Artifact:
        """Raises `OperationError` where it was lost or damaged."""
        try:
            return reader.read(self.artifact(number))
        except OperationError as failure:
            raise OperationError(failure.message, f"`policyc unload {self.name}`, then load again") from None

    # --- the lock ---------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Waits for the lock. Raises `OperationError` where another command holds it for long."""
        deadline = time.monotonic() + LOCK_PATIENCE
        while not self._try_lock():
            if time.monotonic() > deadline:
                raise OperationError(
                    f"another policyc command works on {self.name}", "wait for it to end, then repeat this one"
                )
            time.sleep(0.02)

    def _try_lock(self) -> bool:
        path = self.folder / "lock"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False  # the folder went away between the two calls
        except OSError as failure:
            raise _unusable(self.folder, failure) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # An unload removes the folder under those who wait: the lock of a file that is gone is worth nothing.
            if os.fstat(fd).st_ino == os.stat(path).st_ino:
                self._lock = fd
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return False

    def close(self) -> None:
        for fd in (self._journal, self._lock):
            if fd >= 0:
                os.close(fd)
        self._journal = self._lock = -1

    def __enter__(self) -> Store:
        self.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- reading and writing ------------------------------------------------------------------------------------

    def read(self, path: Path | None = None) -> Snapshot:
        """Raises `OperationError` where there is no such load or the file was damaged."""
        path = path or self.current
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            raise unknown(self.name) from None
        except OSError as failure:
            raise _unusable(path, failure) from None
        try:
            return _parse(lines)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise OperationError(
                f"the state file {path} is damaged, or another version of policyc wrote it",
                f"`policyc unload {self.name}`, then load again",
            ) from None

    def write(self, path: Path, header: Header, endpoints: list[Registered]) -> None:
        """Writes a compact state file, whole or not at all."""
        lines = [json.dumps({"format": FORMAT, "version": VERSION, **asdict(header)}, separators=(",", ":"))]
        lines += [json.dumps(e.to_json(), separators=(",", ":")) for e in endpoints]
        self.write_file(path, ("\n".join(lines) + "\n+\n").encode())

    def write_file(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(path.name + ".tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError as failure:
            temporary.unlink(missing_ok=True)
            raise _unusable(path, failure) from None

    def begin(self, operation: dict[str, Any]) -> int:
        """Writes down what is about to be done. Returns the mark for `abort`."""
        if self._journal < 0:
            self._journal = os.open(self.current, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        mark = os.fstat(self._journal).st_size
        line = json.dumps(operation, separators=(",", ":")).encode() + b"\n"
        try:
            if os.write(self._journal, line) != len(line):
                raise OSError(28, os.strerror(28))
        except OSError as failure:
            os.ftruncate(self._journal, mark)
            raise _unusable(self.current, failure) from None
        return mark

    def done(self) -> None:
        """Marks the operation. Without the mark, should the disk be full, the next command does it again."""
        with suppress(OSError):
            os.write(self._journal, DONE)

    def abort(self, mark: int) -> None:
        """The operation was undone: forgets it."""
        os.ftruncate(self._journal, mark)

    def reopen(self) -> None:
        """After `write` has replaced the current file."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def leave(self) -> None:
        """From here on there is no load any more, only something to take away."""
        try:
            if self.current.exists():
                self.current.replace(self.leaving)
        except OSError as failure:
            raise _unusable(self.current, failure) from None

    def stay(self) -> None:
        """What was to be taken away cannot be."""
        if self.leaving.exists() and not self.current.exists():
            self.leaving.replace(self.current)

    def left(self) -> None:
        """Nothing is there any more of which the state tells."""
        for path in (self.next, self.leaving):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder; the lock goes last and with it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            root().rmdir()  # only if this was the last one
        except OSError:
            pass


def unknown(name: str) -> OperationError:
    """No load has this name."""
    import difflib

    known = names()
    if name in known:
        return OperationError(
            f"the state of {name!r} was lost, or its first load or its unloading is under way or was interrupted",
            f"`policyc unload {name}` takes away what is there; then load again",
        )
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return OperationError(f"nothing is loaded as {name!r}", f"did you mean {near[0]!r}?")
    there = f"loaded: {', '.join(known)}" if known else "`policyc load X.o --name NAME` loads one"
    return OperationError(f"nothing is loaded as {name!r}", there)


def _parse(lines: list[bytes]) -> Snapshot:
    head = json.loads(lines[0])
    if head.pop("format") != FORMAT or head.pop("version") != VERSION:
        raise ValueError("format")
    header = Header(**head)
    found = Snapshot(header, {addresses.read(a) for a in header.host}, torn=bool(lines[-1]))
    begun: list[dict[str, Any]] = []
    operations = [line for line in lines[1:-1] if line != b"+"]
    read: list[dict[str, Any]] = json.loads(b"[%s]" % b",".join(operations))  # at once: a tenth of the time
    if len(read) != len(operations):
        raise ValueError("a line is not one operation")
    following = iter(read)
    for line in lines[1:-1]:
        if line != b"+":
            begun.append(next(following))
            continue
        for done in begun:
            found.replay(done)
        begun = []
    # An operation begins when the one before it is done, whether or not its mark could be written.
    for done in begun[:-1]:
        found.replay(done)
    if begun and lines[-1] != b"+":
        found.pending = begun[-1]
        Snapshot(header, set(), dict(found.endpoints)).replay(begun[-1])  # raises where it is no operation
    elif begun:
        found.replay(begun[-1])
    return found


def _unusable(path: Path, failure: OSError) -> OperationError:
    if isinstance(failure, PermissionError):
        return OperationError(f"not permitted to use {path}", CAPABILITIES, PERMISSION_OR_FEATURE)
    return OperationError(f"cannot use {path}: {failure.strerror}", "POLICYC_STATE names another place for it")
