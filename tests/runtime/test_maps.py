"""Protects typed map access: batches, full tables, per-CPU sums, and TEST_RUN for each program type."""

import os
import struct
from collections.abc import Callable, Iterator

import pytest

from policyc.diagnostics import OperationError
from policyc.runtime import maps, programs, testrun
from policyc.runtime.libbpf import ffi, lib

pytestmark = pytest.mark.bpf


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


Returning = Callable[[int, int], int]


@pytest.fixture
def returning() -> Iterator[Returning]:
    """Loads a program of a type that returns a code, for the test."""
    made: list[int] = []

    def load(program_type: int, code: int) -> int:
        instructions = struct.pack("<BBhiBBhi", 0xB7, 0, 0, code, 0x95, 0, 0, 0)
        made.append(lib().bpf_prog_load(program_type, b"constant", b"GPL", instructions, 2, ffi.NULL))
        assert made[-1] > 0
        return made[-1]

    yield load
    for fd in made:
        os.close(fd)


def test_batch_fill_and_walk() -> None:
    table = maps.create("HASH", "numbers", 4, 4, 10_000)
    table.update_many([(u32(i), u32(i * 2)) for i in range(9_000)])
    assert dict(table.items()) == {u32(i): u32(i * 2) for i in range(9_000)}
    assert table.lookup(u32(9_001)) is None
    assert table.delete(u32(1))
    assert not table.delete(u32(1))
    table.close()


def test_full_table_is_told() -> None:
    table = maps.create("HASH", "small", 4, 4, 2)
    with pytest.raises(maps.TableFull, match="small is full"):
        table.update_many([(u32(i), u32(i)) for i in range(5)])
    table.close()


def test_per_cpu_values_are_added_up() -> None:
    table = maps.create("PERCPU_ARRAY", "counts", 4, 24, 2)
    table.update(u32(1), struct.pack("<3Q", 1, 2, 3) * maps.possible_cpus())
    totals = table.sum_cpus(table.read_array()[1])
    assert totals == (maps.possible_cpus(), 2 * maps.possible_cpus(), 3 * maps.possible_cpus())
    table.close()


@pytest.mark.parametrize(("program_type", "run"), [(3, testrun.run_skb), (8, testrun.run_skb), (6, testrun.run_xdp)])
def test_test_run_of_each_program_type(returning: Returning, program_type: int, run: object) -> None:
    frame = bytes(12) + b"\x08\x00" + b"\x45" + bytes(49)
    program = returning(program_type, 1)
    result = run(program, frame, ifindex=1, repeat=2)  # type: ignore[operator]
    assert result.code == 1
    assert len(result.data) == len(frame)
    assert programs.program_name(programs.program_id(program)) == "constant"


def test_test_run_of_a_short_frame_is_refused(returning: Returning) -> None:
    with pytest.raises(OperationError, match="cannot be test-run"):
        testrun.run_xdp(returning(6, 2), bytes(13))


def test_many_frames_are_run_one_after_another_and_refused_ones_told(returning: Returning) -> None:
    whole = bytes(12) + b"\x08\x00" + b"\x45" + bytes(49)
    skb, xdp = testrun.skb_context(1), testrun.xdp_context(1, len(whole))
    first, second = returning(3, 7), returning(6, 2)
    packets = [(first, whole, skb), (first, whole[:20], skb), (second, bytes(13), xdp), (second, whole, xdp)]
    assert testrun.codes(packets * 2) == [7, None, None, 2] * 2
