"""What maps, the ring buffer, read-only data and bpffs do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from policyc.artifact.layout import (
    CONFIG,
    ENDPOINT,
    EVENT,
    HOST_ENDPOINT,
    PROGRAM_PREFIX,
    Events,
    MapSpec,
    PointKind,
    State,
)
from policyc.artifact.reader import Artifact
from policyc.codegen.function import I32, I64, Function, Helper
from policyc.runtime import maps, testrun
from policyc.runtime.libbpf import lib
from policyc.runtime.maps import Map, TableFull
from policyc.runtime.object import Object
from policyc.runtime.ringbuf import RingBuffer
from tests.platform.program import array, loaded

pytestmark = pytest.mark.bpf
FRAME = (
    bytes(12) + b"\x08\x00" + bytes([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]) + bytes(20)
)
ZERO = bytes(4)


def test_inserts_into_a_full_lru_hash_evict(own_netns: None) -> None:
    """A program inserts 4,096 keys into 64 places: none fails, and never more than 64 are there."""

    def body(f: Function, made) -> None:  # type: ignore[no-untyped-def]
        key, value = f.slot(I32, align=4), f.slot(I64)
        f.store(value, 0, I64)
        failures = f.var(0, I32)
        with f.loop(4096, 4096) as (i, _):
            f.store(key, i)
            result = f.helper(Helper.MAP_UPDATE, made["table"], key, value, 0)
            with f.if_(f.ne(result, 0)):
                failures.set(f.add(failures.get(), 1))
        f.ret(failures.get())

    with loaded({("tc", "probe"): body}, [MapSpec("table", "LRU_HASH", 4, 8, 64, "")]) as made:
        assert testrun.run_skb(made.program_fd("probe"), FRAME).code == 0
        table = Map(os.dup(made.map_fd("table")), "table")
        there = len(set(table.keys()))
        table.close()
    assert 0 < there <= 64


def test_a_full_hash_refuses_and_keeps_what_it_has() -> None:
    table = maps.create("HASH", "probe", 4, 4, 2)
    try:
        for number in range(2):
            table.update(number.to_bytes(4, "little"), ZERO)
        with pytest.raises(TableFull):
            table.update(b"\x09\0\0\0", ZERO)
        table.update(ZERO, b"\1\0\0\0")  # what is there can still be replaced
        assert len(list(table.keys())) == 2
    finally:
        table.close()


def test_tables_take_batches() -> None:
    for kind in ("HASH", "ARRAY", "LRU_HASH"):
        table = maps.create(kind, "probe", 4, 4, 2)
        assert table.has_batches(), kind
        table.close()


def test_arrays_begin_as_zeros_and_sizes_can_be_set_before_load(own_netns: None) -> None:
    """Zero means not ready, nobody, no such rule: an object denies until its maps are filled."""
    assert (State.NOT_READY, ENDPOINT.unpack(bytes(ENDPOINT.size))[0]) == (0, 0)
    with loaded({("tc", "probe"): lambda f, m: f.ret(0)}, [array("word", 8, 3)]) as made:
        assert made.max_entries("word") == 3
        opened = Map(os.dup(made.map_fd("word")), "word")
        assert opened.read_array() == [bytes(8)] * 3
        opened.close()


def test_a_full_ring_buffer_is_counted_in_lost(own_netns: None, starwars: Artifact) -> None:
    """Every packet asks for an event; what found no room is in `lost`, and nothing is in both."""
    sent = 200
    with Object(starwars) as made:
        made.resize("events", 4096)
        made.load()
        for name, key, value in (
            ("endpoints", HOST_ENDPOINT, ENDPOINT.pack(HOST_ENDPOINT, 0)),
            ("points", 1, bytes([PointKind.UPLINK, 0, 0, 0, 0, 0, 0, 0])),
            ("config", 0, CONFIG.pack(State.ACTIVE, 1, Events.TRACE, 0, 0, 0, 0)),
        ):
            assert lib().bpf_map_update_elem(made.map_fd(name), key.to_bytes(4, "little"), value, 0) == 0
        testrun.run_skb(made.program_fd(PROGRAM_PREFIX + "tc_ingress"), FRAME, repeat=sent)
        with RingBuffer(made.map_fd("events")) as ring:
            events = list(ring.consume())
        opened = Map(os.dup(made.map_fd("lost")), "lost")
        (lost,) = opened.sum_cpus(opened.lookup(ZERO) or b"")
        opened.close()
    assert {len(e) for e in events} == {EVENT.size}
    assert lost > 0
    assert len(events) + lost == sent


def test_read_only_data_is_filled_by_libbpf_and_frozen(starwars: Artifact) -> None:
    (static,) = starwars.manifest.static
    section = ELFFile(BytesIO(starwars.object)).get_section_by_name(static.section)
    assert section is not None
    with Object(starwars) as made:
        made.load()
        name = next(n for n in made.maps if n.endswith(".rodata"))
        opened = Map(os.dup(made.map_fd(name)), name)
        assert opened.lookup(ZERO) == section.data()
        assert lib().bpf_map_update_elem(opened.fd, ZERO, bytes(static.size), 0) == -errno.EPERM
        opened.close()


def test_a_pin_holds_what_no_process_has_open(mount_bpffs: Callable[[str], Path]) -> None:
    """A pin holds a map that no process has open."""
    folder = mount_bpffs("bpf")
    made = maps.create("ARRAY", "probe", 4, 4, 1)
    made.update(ZERO, b"\7\0\0\0")
    assert lib().bpf_obj_pin(made.fd, os.fsencode(folder / "probe")) == 0
    made.close()
    again = Map(lib().bpf_obj_get(os.fsencode(folder / "probe")), "probe")
    assert again.lookup(ZERO) == b"\7\0\0\0"
    again.close()


def test_names_on_bpffs_have_no_dots(mount_bpffs: Callable[[str], Path]) -> None:
    folder = mount_bpffs("with.dot")  # a dot in a folder outside bpffs is nobody's concern
    made = maps.create("ARRAY", "probe", 4, 4, 1)
    try:
        assert lib().bpf_obj_pin(made.fd, os.fsencode(folder / "a.b")) == -errno.EPERM
        with pytest.raises(PermissionError):
            (folder / "c.d").mkdir()
        assert lib().bpf_obj_pin(made.fd, os.fsencode(folder / "a_b")) == 0
    finally:
        made.close()


def test_mounts_of_bpffs_are_private(mount_bpffs: Callable[[str], Path]) -> None:
    """Each mount is a file system of its own: tests and loads do not see one another's pins. A new one is not always
    empty: the kernel may put `maps.debug` and `progs.debug` into it."""
    one, two = mount_bpffs("one"), mount_bpffs("two")
    made = maps.create("ARRAY", "probe", 4, 4, 1)
    assert lib().bpf_obj_pin(made.fd, os.fsencode(one / "pinned")) == 0
    made.close()
    assert (one / "pinned").exists()
    assert not (two / "pinned").exists()
