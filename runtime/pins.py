"""What is pinned where. Below the folder of a load:

- `switch`, `next_HOOK`, the tables that outlive a replacement, and `enter_HOOK`, which are what is attached (those of streams
  are there as soon as a policy with L7 rules has had a cgroup);
- `gN/`: the other maps of load number N and those of its programs that it has needed so far;
- `links/`: the XDP and cgroup links.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from policyc.artifact.layout import ENTRY_PREFIX, NEXT_PREFIX, PROGRAM_PREFIX, SWITCH, Hook, State
from policyc.artifact.stream_layout import StreamHook, stream_map_specs
from policyc.diagnostics import OperationError
from policyc.runtime import bpffs, programs
from policyc.runtime.maps import Map

TABLES = ("ct4", "ct6", "frags", "denials", "events", "lost")  # kept when a load is replaced
NEXT = tuple(NEXT_PREFIX + hook.name.lower() for hook in Hook)
STREAM_TABLES = tuple(spec.name for spec in stream_map_specs())
STREAM_NEXT = tuple(NEXT_PREFIX + hook.name.lower() for hook in StreamHook)
STREAM_ENTRIES = tuple(ENTRY_PREFIX + hook.name.lower() for hook in StreamHook)
SHARED = ("switch", *NEXT, *TABLES, *STREAM_TABLES, *STREAM_NEXT)
NUMBER = struct.Struct("<I")  # keys of arrays
ZERO = NUMBER.pack(0)


class Pins:
    """The pins of load `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = bpffs.folder(name)

    @property
    def links(self) -> Path:
        return self.folder / "links"

    def generation(self, number: int) -> Path:
        return self.folder / f"g{number}"

    def map(self, name: str, number: int | None = None) -> Map:
        """An open map of load `number`, without it a shared one. Raises `OperationError` where it is not pinned."""
        return Map(bpffs.open_pin(self._path(name, number)), name)

    def optional_map(self, name: str, number: int | None = None) -> Map | None:
        """None where the object had no such map."""
        return self.map(name, number) if bpffs.exists(self._path(name, number)) else None

    def own(self, name: str, number: int) -> Path:
        """Where a map of load `number` is pinned that is not shared. libbpf names a data section's map `policyc.rodata`;
        names on bpffs have no dots."""
        return self.generation(number) / name.rpartition(".")[2]

    def share(self, number: int) -> None:
        """Puts the tables that load `number` could not take over, their layouts being others, in the place of the old ones."""
        for name in TABLES:
            if bpffs.exists(self.own(name, number)):
                bpffs.move(self.own(name, number), self.folder / name)

    def entries(self) -> dict[Hook, int]:
        """The open entry programs, which the caller closes."""
        return self._programs(self.folder, ENTRY_PREFIX)

    def programs(self, number: int) -> dict[Hook, int]:
        """The open programs of load `number`, which the caller closes."""
        return self._programs(self.generation(number), PROGRAM_PREFIX)

    def stream_entry(self, hook: StreamHook) -> int:
        """The open entry program of a stream hook, which the caller closes."""
        return bpffs.open_pin(self.folder / (ENTRY_PREFIX + hook.name.lower()))

    def missing(self, number: int, streams: bool = False) -> list[str]:
        """What load `number` has pinned and is not there: without it what is attached cannot be changed. `streams`: it has
        stream programs at cgroups."""
        names = [f"g{number}/config", "switch", *NEXT, *(ENTRY_PREFIX + hook.name.lower() for hook in Hook)]
        if streams:
            names += [*STREAM_TABLES, *STREAM_NEXT, *STREAM_ENTRIES]
        return [name for name in names if not bpffs.exists(self.folder / name)]

    def numbers(self) -> set[int]:
        """The kernel's numbers of all programs that are pinned, of whichever load number."""
        found: set[int] = set()
        paths = [
            *bpffs.pins_in(self.folder, f"{ENTRY_PREFIX}*"),
            *bpffs.pins_in(self.folder, f"g*/{PROGRAM_PREFIX}*"),
        ]
        for path in paths:
            fd = bpffs.open_pin(path)
            found.add(programs.program_id(fd))
            os.close(fd)
        return found

    def clear_slot(self, hook: Hook | StreamHook, slot: int) -> None:
        """Takes the program out of a generation slot."""
        table = self.optional_map(NEXT_PREFIX + hook.name.lower())
        if table is not None:
            table.delete(NUMBER.pack(slot))
            table.close()

    def switch(self) -> int:
        """The value of `switch`; NOT_READY where nothing is pinned."""
        switch = self.optional_map("switch")
        if switch is None:
            return State.NOT_READY
        value = switch.lookup(ZERO)
        switch.close()
        return int(SWITCH.unpack(value)[0]) if value else State.NOT_READY

    def _path(self, name: str, number: int | None) -> Path:
        return (self.folder if number is None else self.generation(number)) / name

    def _programs(self, folder: Path, prefix: str) -> dict[Hook, int]:
        found: dict[Hook, int] = {}
        try:
            for hook in Hook:
                path = folder / (prefix + hook.name.lower())
                if bpffs.exists(path):
                    found[hook] = bpffs.open_pin(path)
        except OperationError:
            close_all(found)
            raise
        return found


def close_all(programs: dict[Hook, int]) -> None:
    for fd in programs.values():
        os.close(fd)
    programs.clear()


def active(slot: int) -> int:
    """The value of `switch` that has generation slot 0 or 1 judge."""
    return (State.ACTIVE, State.ACTIVE_1)[slot]
