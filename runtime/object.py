"""A BPF object in libbpf's hands, from its bytes to loaded maps and programs."""

from __future__ import annotations

import errno
import re
from types import TracebackType
from typing import Any

from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.runtime.libbpf import PERMISSION_OR_FEATURE, check, check_pointer, error, ffi, lib, opts

LOG_SIZE = 16 << 20  # bytes a program; untouched pages cost nothing
# "; source text @ file:line" is printed by kernels from 6.9.
SOURCE_LINE = re.compile(r"^; (?P<text>.*?) ?@ (?P<file>[^@]+):(?P<line>\d+)$")
INSTRUCTION = re.compile(r"^(?P<index>\d+): \(")
CHATTER = re.compile(
    r"^(processed \d+ insns|verification time|stack depth|mark_precise|from \d+ to|;|\d+: |func#|max_states|Func#|Validating|R\d+=|$)"
)


class Object:
    """Opened, sized, then loaded. Its maps' and programs' descriptors are valid until `close`."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._data = artifact.object  # libbpf keeps pointers into it
        self._name = ffi.new("char[]", b"policyc")
        with_name = opts("bpf_object_open_opts", object_name=self._name)
        made = lib().bpf_object__open_mem(ffi.from_buffer(self._data), len(self._data), with_name)
        self._object: Any = check_pointer(made, f"open the object in {artifact.name}")
        self._maps = dict(self._walk("map"))
        self._programs = dict(self._walk("program"))
        self._logs: dict[str, bytearray] = {}

    def _walk(self, kind: str) -> Any:
        following, name = getattr(lib(), f"bpf_object__next_{kind}"), getattr(lib(), f"bpf_{kind}__name")
        item = following(self._object, ffi.NULL)
        while item != ffi.NULL:
            yield ffi.string(name(item)).decode(errors="replace"), item
            item = following(self._object, item)

    @property
    def maps(self) -> list[str]:
        return list(self._maps)

    @property
    def programs(self) -> list[str]:
        return list(self._programs)

    def max_entries(self, name: str) -> int:
        return int(lib().bpf_map__max_entries(self._maps[name]))

    def shape(self, name: str) -> tuple[int, int, int]:
        """Type, key size and value size of a map."""
        item = self._maps[name]
        return lib().bpf_map__type(item), lib().bpf_map__key_size(item), lib().bpf_map__value_size(item)

    def resize(self, name: str, entries: int) -> None:
        check(lib().bpf_map__set_max_entries(self._maps[name], entries), f"size map {name}")

    def reuse(self, name: str, fd: int) -> None:
        """Has the programs use the open map `fd` for `name`."""
        check(lib().bpf_map__reuse_fd(self._maps[name], fd), f"reuse map {name}")

    def load(self) -> None:
        """Creates the maps and has the kernel verify the programs. Raises `OperationError`, for a refused program
        with the verifier's reason and the policy line."""
        for name, program in self._programs.items():
            buffer = self._logs[name] = bytearray(LOG_SIZE)
            lib().bpf_program__set_log_buf(program, ffi.from_buffer(buffer), LOG_SIZE)
        result = lib().bpf_object__load(self._object)
        logs, self._logs = self._logs, {}
        if result >= 0:
            return
        for name, buffer in logs.items():
            log = buffer[: buffer.find(0)].decode(errors="replace")
            if log and not log.startswith("processed") and _reason(log):
                raise refused(self._artifact, name, log, -result)
        raise error(-result, f"load the object in {self._artifact.name}")

    def map_fd(self, name: str) -> int:
        return check(lib().bpf_map__fd(self._maps[name]), f"use map {name}")

    def program_fd(self, name: str) -> int:
        return check(lib().bpf_program__fd(self._programs[name]), f"use program {name}")

    def close(self) -> None:
        if self._object is not None:
            lib().bpf_object__close(self._object)
            self._object = None

    def __enter__(self) -> Object:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refused(artifact: Artifact, program: str, log: str, number: int) -> OperationError:
    """What the verifier's log says, beside the policy line from which the refused instruction came."""
    reason = _reason(log)
    place = _place(log) or _place_by_number(artifact, program, log)
    cause = _rule_at(artifact, place) if place else None
    where = f" at {place[0]}:{place[1]}{f' ({cause})' if cause else ''}" if place else ""
    return OperationError(
        f"the kernel refuses program {program}{where}: {reason}",
        "the policy may be too large for this kernel: split it; otherwise please report this"
        if number == errno.E2BIG
        else "please report this with the policy and the kernel's version",
        PERMISSION_OR_FEATURE,
    )


def _reason(log: str) -> str | None:
    """The line in which the verifier says why: the last that is not its narration."""
    lines = [line for line in log.splitlines() if not CHATTER.match(line)]
    return lines[-1].strip() if lines else None


def _place(log: str) -> tuple[str, int] | None:
    """File and line of the last source line that the log names."""
    for line in reversed(log.splitlines()):
        match = SOURCE_LINE.match(line)
        if match:
            return match["file"].strip(), int(match["line"])
    return None


def _place_by_number(artifact: Artifact, program: str, log: str) -> tuple[str, int] | None:
    """The same from the number of the last instruction that the log shows."""
    from policyc.runtime import lines  # only when something went wrong

    for line in reversed(log.splitlines()):
        match = INSTRUCTION.match(line)
        if match:
            return lines.place(artifact.object, program, int(match["index"]))
    return None


def _rule_at(artifact: Artifact, place: tuple[str, int]) -> str | None:
    """The reference of the rule whose source has that line."""
    for rule in artifact.manifest.rules:
        if rule.span.file == place[0] and rule.span.line <= place[1] <= rule.span.end_line:
            return rule.ref
    return None
