"""Protects what is said of a program that the kernel refuses: the verifier's reason beside the policy line."""

from __future__ import annotations

import dataclasses
import io
import struct

import pytest
from elftools.elf.elffile import ELFFile

from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.runtime.object import Object, refused

LOG = """\
func#0 @0
0: R1=ctx() R10=fp0
; @ runtime.pol:1
0: (bf) r6 = r1                       ; R1=ctx() R6_w=ctx()
; allow from web on tcp/80 @ runtime.pol:2
1: (79) r0 = *(u64 *)(r9 +0)
R9 !read_ok
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""


def test_reason_and_rule(artifact: Artifact) -> None:
    error = refused(artifact, "policyc_tc_ingress", LOG, 13)
    assert error.message == (
        "the kernel refuses program policyc_tc_ingress at runtime.pol:2 (api.ingress.1): R9 !read_ok"
    )
    assert error.exit_code == 3


def test_too_large_says_what_to_do(artifact: Artifact) -> None:
    log = (
        "; @ runtime.pol:1\n7: (b7) r0 = 0\nBPF program is too large. Processed 1000001 insn\nprocessed 1000001 insns\n"
    )
    error = refused(artifact, "policyc_xdp_ingress", log, 7)
    assert "too large" in error.message
    assert error.help is not None
    assert "split" in error.help


@pytest.mark.bpf
@pytest.mark.parametrize("function", ["policyc_xdp_ingress", "judge", "match_group"])
def test_the_kernel_refuses(artifact: Artifact, function: str) -> None:
    """An instruction that reads a register that was never written. Both ways to its line agree: the one the kernel
    prints, and the one by the instruction's number, which older kernels need."""
    broken = dataclasses.replace(artifact, object=breaking(artifact.object, function))
    with Object(broken) as obj, pytest.raises(OperationError, match="!read_ok") as caught:
        obj.load()
    assert "at runtime.pol:" in caught.value.message
    old = OperationError("")
    with pytest.MonkeyPatch.context() as patch, Object(broken) as obj:
        patch.setattr("policyc.runtime.object._place", lambda log: None)
        try:
            obj.load()
        except OperationError as error:
            old = error
    assert old.message == caught.value.message


def breaking(data: bytes, function: str) -> bytes:
    """`data` with `r0 = r9` as the first instruction of a function."""
    elf = ELFFile(io.BytesIO(data))
    symbol = elf.get_section_by_name(".symtab").get_symbol_by_name(function)[0]
    at = elf.get_section(symbol["st_shndx"])["sh_offset"] + symbol["st_value"]
    return data[:at] + struct.pack("<BBhi", 0xBF, 0x90, 0, 0) + data[at + 8 :]
