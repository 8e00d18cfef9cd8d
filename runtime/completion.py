"""Programs that a load has not needed so far: no endpoint or `--attach` had a point of their kind."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from policyc.artifact.layout import NEXT_PREFIX, PROGRAM_PREFIX, Hook
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import StreamHook
from policyc.runtime import bpffs, streams
from policyc.runtime.maps import Map
from policyc.runtime.object import Object
from policyc.runtime.pins import NUMBER, SHARED, Pins
from policyc.runtime.state import Header


def complete(artifact: Artifact, pins: Pins, header: Header, hooks: Iterable[Hook | StreamHook]) -> None:
    """Loads those programs of `hooks` that are not loaded yet, over the maps of the load, into its slot. `artifact` is
    the load's own. Raises `OperationError`; then nothing has changed."""
    folder = pins.generation(header.number)
    names = {PROGRAM_PREFIX + hook.name.lower(): hook for hook in hooks}
    missing = [name for name in names if not bpffs.exists(folder / name)]
    if not missing:
        return
    with Object(artifact) as obj, ExitStack() as opened:
        for name in obj.maps:
            path = pins.folder / name if name in SHARED else pins.own(name, header.number)
            table = Map(bpffs.open_pin(path), name)
            opened.callback(table.close)
            obj.reuse(name, table.fd)
        wanted = set(missing)
        if any(isinstance(names[name], StreamHook) for name in missing) and not streams.entries_are_there(pins):
            wanted |= {hook.entry for hook in artifact.manifest.stream_hooks}
        obj.load(without=[name for name in obj.programs if name not in wanted])
        streams.enter(obj, pins)
        for name in missing:
            table = pins.map(NEXT_PREFIX + names[name].name.lower())
            opened.callback(table.close)
            table.update(NUMBER.pack(header.slot), NUMBER.pack(obj.program_fd(name)))
            bpffs.pin(obj.program_fd(name), folder / name)  # last: what is pinned is called
