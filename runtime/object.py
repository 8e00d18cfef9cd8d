"""A BPF object in libbpf's hands, from its bytes to loaded maps and programs.

The verifier takes most of the time of a load. It judges several programs at a time on as many CPUs if they are in objects of
their own: so each program that judges packets is, and shares the maps of the first object.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
from collections.abc import Collection, Iterable, Iterator
from threading import Thread
from types import TracebackType
from typing import Any

from policyc.artifact.layout import ENTRY_PREFIX, NEXT_PREFIX, PROGRAM_PREFIX, Hook, map_specs
from policyc.artifact.reader import RECOMPILE, Artifact
from policyc.artifact.stream_layout import stream_map_specs
from policyc.diagnostics import OperationError
from policyc.runtime.libbpf import MAP_TYPE, PERMISSION_OR_FEATURE, check, check_pointer, error, ffi, lib, opts

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
        self._first = _Opened(artifact)
        self._siblings: list[_Opened] = []
        self.reused: set[str] = set()

    def check(self) -> None:
        """Raises `OperationError` unless all maps and programs are there, and maps as the manifest says.

        The kernel takes as many bytes of a value as the map has: a record of another size would be read past its end."""
        manifest = self._artifact.manifest
        specs = map_specs(manifest.identity_layout, manifest.counters)
        if manifest.stream_hooks:
            specs += stream_map_specs()
        for spec in specs:
            wanted = (MAP_TYPE[spec.type], spec.key_size, spec.value_size)
            fits = spec.name in self._first.maps and self.shape(spec.name) == wanted
            if not fits or (spec.name == "counters" and self.max_entries(spec.name) != spec.max_entries):
                raise self._unusable(f"its map {spec.name} is not what its manifest says")
        for hook in Hook:
            name = hook.name.lower()
            if (
                not {PROGRAM_PREFIX + name, ENTRY_PREFIX + name} <= set(self.programs)
                or NEXT_PREFIX + name not in self.maps
            ):
                raise self._unusable(f"it has not all that belongs to hook {name}")
        for stream in manifest.stream_hooks:
            if not {stream.program, stream.entry} <= set(self.programs) or stream.next_map not in self.maps:
                raise self._unusable(f"it has not all that belongs to hook {stream.hook.name.lower()}")

    def _unusable(self, reason: str) -> OperationError:
        return OperationError(f"{self._artifact.name} is not a usable policyc artifact: {reason}", RECOMPILE)

    @property
    def maps(self) -> list[str]:
        return list(self._first.maps)

    @property
    def programs(self) -> list[str]:
        return list(self._first.programs)

    @property
    def loaded(self) -> list[str]:
        """The programs that the kernel has verified."""
        return [name for opened in (self._first, *self._siblings) for name in opened.loaded]

    def max_entries(self, name: str) -> int:
        return int(lib().bpf_map__max_entries(self._first.maps[name]))

    def shape(self, name: str) -> tuple[int, int, int]:
        """Type, key size and value size of a map."""
        item = self._first.maps[name]
        return lib().bpf_map__type(item), lib().bpf_map__key_size(item), lib().bpf_map__value_size(item)

    def resize(self, name: str, entries: int) -> None:
        check(lib().bpf_map__set_max_entries(self._first.maps[name], entries), f"size map {name}")

    def reuse(self, name: str, fd: int) -> None:
        """Has the programs use the open map `fd` for `name`."""
        self._first.reuse(name, fd)
        self.reused.add(name)

    def load(self, without: Collection[str] = ()) -> None:
        """Creates the maps and has the kernel verify the programs, but for those named in `without`. Raises
        `OperationError`, for a refused program with the verifier's reason and the policy line."""
        manifest = self._artifact.manifest
        large = [h.program for h in manifest.hooks] + [h.program for h in manifest.stream_hooks]
        large = [name for name in large if name in self._first.programs and name not in without]
        cpus = len(os.sched_getaffinity(0))
        # Stream programs come after their entry programs: the first program that uses a PROG_ARRAY settles which cgroup
        # storage all must have.
        streams = {h.program for h in manifest.stream_hooks}
        apart = large if min(len(large), cpus) > 1 else [name for name in large if name in streams]
        workers = min(len(apart), cpus)
        self._first.load(name for name in self._first.programs if name not in without and name not in apart)
        if not apart:
            return
        descriptors = {name: self.map_fd(name) for name in self._first.maps}
        # Taken in their order, so that the first one that the kernel refuses has been asked about when any has failed.
        waiting, failures = list(enumerate(apart))[::-1], dict[int, BaseException]()

        def work() -> None:
            number = len(apart)
            try:
                while not failures and waiting:
                    sibling = _Opened(self._artifact)
                    self._siblings.append(sibling)
                    for name, fd in descriptors.items():
                        sibling.reuse(name, fd)
                    number, program = waiting.pop()
                    sibling.load([program])
            except IndexError:  # another thread took the last one
                return
            except BaseException as failure:
                failures[number] = failure

        threads = [Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[min(failures)]

    def map_fd(self, name: str) -> int:
        return check(lib().bpf_map__fd(self._first.maps[name]), f"use map {name}")

    def program_fd(self, name: str) -> int:
        """Of a program that was loaded."""
        holder = next((s for s in self._siblings if name in s.loaded), self._first)
        return check(lib().bpf_program__fd(holder.programs[name]), f"use program {name}")

    def close(self) -> None:
        for opened in (*self._siblings, self._first):
            opened.close()
        self._siblings.clear()

    def __enter__(self) -> Object:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Opened:
    """One `struct bpf_object` of the artifact's object, of which some programs are loaded (`loaded`)."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._data = artifact.object  # libbpf keeps pointers into it
        self._name = ffi.new("char[]", b"policyc")
        with_name = opts("bpf_object_open_opts", object_name=self._name)
        made = lib().bpf_object__open_mem(ffi.from_buffer(self._data), len(self._data), with_name)
        self._object: Any = check_pointer(made, f"open the object in {artifact.name}")
        self.maps: dict[str, Any] = dict(self._walk("map"))
        self.programs: dict[str, Any] = dict(self._walk("program"))
        self.loaded: tuple[str, ...] = ()

    def _walk(self, kind: str) -> Iterator[tuple[str, Any]]:
        following, name = getattr(lib(), f"bpf_object__next_{kind}"), getattr(lib(), f"bpf_{kind}__name")
        item = following(self._object, ffi.NULL)
        while item != ffi.NULL:
            yield ffi.string(name(item)).decode(errors="replace"), item
            item = following(self._object, item)

    def reuse(self, name: str, fd: int) -> None:
        check(lib().bpf_map__reuse_fd(self.maps[name], fd), f"reuse map {name}")

    def load(self, names: Iterable[str]) -> None:
        """Creates the maps that are not reused, and loads these programs."""
        self.loaded = tuple(names)
        logs: dict[str, mmap.mmap] = {}
        for name, program in self.programs.items():
            check(lib().bpf_program__set_autoload(program, name in self.loaded), f"choose program {name}")
            if name in self.loaded:
                buffer = logs[name] = mmap.mmap(-1, LOG_SIZE)
                lib().bpf_program__set_log_buf(program, ffi.from_buffer(buffer), LOG_SIZE)
        result = lib().bpf_object__load(self._object)
        if result >= 0:
            return
        for name, buffer in logs.items():
            log = buffer[: buffer.find(b"\0")].decode(errors="replace")
            if log and not log.startswith("processed") and _reason(log):
                raise refused(self._artifact, name, log, -result)
        raise error(-result, f"load the object in {self._artifact.name}")

    def close(self) -> None:
        if self._object is not None:
            lib().bpf_object__close(self._object)
            self._object = None


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
