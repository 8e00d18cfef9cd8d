"""What is no sound artifact is refused with one clear error before anything else looks at it; no bytes give a traceback."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyc.artifact import manifest as manifests
from policyc.artifact import reader, seal, writer
from policyc.artifact.elf import HEADER, append_sections, sections
from policyc.diagnostics import OperationError
from tests.artifact.objects import LAYOUT, WEB, artifact, minimal_object, rich_policy

SOUND = artifact()


def refusal(data: bytes) -> str:
    with pytest.raises(OperationError) as caught:
        reader.read(data)
    assert caught.value.exit_code == 2
    assert caught.value.help
    return caught.value.message


def with_manifest(**changes: object) -> bytes:
    document = manifests.to_json(reader.read(SOUND).manifest) | changes
    return writer.attach(minimal_object(), json.dumps(document).encode())


def test_what_was_written_is_read() -> None:
    read = reader.read(SOUND)
    assert read.object == SOUND
    assert read.policy == rich_policy()
    manifest = read.manifest
    assert manifest.identity_layout == LAYOUT
    assert manifest.selectors == (WEB,)
    assert [g.subject for g in manifest.groups] == [0, None]
    assert manifest.rules[0].span.file == "ä.pol"
    assert [s.section for s in manifest.static] == [".rodata"]
    assert manifest.hooks[0].entry == "enter_tc_ingress"


def test_manifest_comes_back_equal() -> None:
    manifest = reader.read(SOUND).manifest
    assert manifests.from_json(json.loads(manifests.to_bytes(manifest))) == manifest


def test_equal_input_gives_equal_bytes() -> None:
    assert artifact() == SOUND


def test_sections_that_were_there_keep_their_place() -> None:
    before, after = sections(minimal_object()), sections(SOUND)
    assert [s.name for s in after] == [s.name for s in before] + ["policyc.manifest", "policyc.digest"]
    moved = {".shstrtab"}
    assert [s for s in after[: len(before)] if s.name not in moved] == [s for s in before if s.name not in moved]


def test_a_section_made_by_the_backend_can_be_sealed() -> None:
    """The placeholder may come from anywhere; sealing only fills in the digest."""
    document = json.dumps(manifests.to_json(reader.read(SOUND).manifest)).encode()
    unsealed = append_sections(minimal_object(), [("policyc.digest", seal.BLANK), ("policyc.manifest", document)])
    assert "altered" in refusal(unsealed)
    assert reader.read(seal.seal(unsealed)).policy == rich_policy()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an ELF file"),
        (b"policy x for any {}", "not an ELF file"),
        (SOUND[:40], "truncated"),
        (SOUND[:-1], "truncated"),
        (SOUND[: len(SOUND) // 2], "truncated"),
        (SOUND + b"\0", "altered"),
        (minimal_object(), "policyc did not make"),
        (SOUND[:18] + struct.pack("<H", 62) + SOUND[20:], "another machine"),
        (SOUND[:4] + b"\x01" + SOUND[5:], "64-bit little-endian"),
        (SOUND[:5] + b"\x02" + SOUND[6:], "64-bit little-endian"),
        (SOUND[:16] + struct.pack("<H", 2) + SOUND[18:], "relocatable"),
        (with_manifest(version="1.2"), "format 1.2 is newer"),
        (with_manifest(version="2.0"), "format 2.0 is newer"),
        (with_manifest(version="one"), "version: expected MAJOR.MINOR"),
        (with_manifest(format="other"), "format: expected policyc-artifact"),
        (with_manifest(mandatory=["policyc.l7"]), "needs section policyc.l7"),
        (with_manifest(rules=3), "rules: expected a list"),
        (with_manifest(rules=[{"ref": "\x1b[31m"}]), "rules[0].span: expected a value"),
        (writer.attach(minimal_object(), b"{"), "no JSON"),
        (writer.attach(minimal_object(), b"[" * 100_000), "no JSON"),
        (writer.attach(minimal_object(), b"\xff"), "no JSON"),
        (writer.attach(minimal_object(), b'{"format":NaN}'), "no JSON"),
        (writer.attach(minimal_object(), b"9" * 5000), "no JSON"),
        (writer.attach(minimal_object(), b"[]"), "expected an object"),
        (append_sections(SOUND, [("policyc.digest", seal.BLANK)]), "more than one section policyc.digest"),
    ],
)
def test_refusals(data: bytes, words: str) -> None:
    assert words in refusal(data)


def test_the_major_version_before_is_read() -> None:
    assert reader.read(with_manifest(version="0.9")).manifest.version == (0, 9)


def test_control_characters_of_a_file_do_not_reach_the_message() -> None:
    message = refusal(with_manifest(mandatory=["\x1b[2Jx\u202e"]))
    assert message.isprintable()


def test_a_wrong_policy_is_refused_when_it_is_asked_for() -> None:
    read = reader.read(with_manifest(policy={"language": "x"}))
    with pytest.raises(OperationError, match="manifest is malformed"):
        _ = read.policy


def test_every_flipped_byte_of_the_container_is_noticed() -> None:
    for at in range(HEADER.size):
        refusal(SOUND[:at] + bytes([SOUND[at] ^ 0x41]) + SOUND[at + 1 :])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SOUND) - 1), st.integers(1, 255)), min_size=1, max_size=4, unique_by=lambda t: t[0]
    )
)
def test_flipped_bytes_are_refused(flips: list[tuple[int, int]]) -> None:
    data = bytearray(SOUND)
    for at, mask in flips:
        data[at] ^= mask
    refusal(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_resealed_mutations_never_raise_anything_else(data: st.DataObject) -> None:
    """Whoever seals again gets past the digest: the container's and the manifest's checks must still hold."""
    mutated = bytearray(SOUND)
    table = HEADER.unpack_from(SOUND)[6]
    spots = st.one_of(
        st.integers(0, HEADER.size - 1), st.integers(table, len(SOUND) - 1), st.integers(0, len(SOUND) - 1)
    )
    for at in data.draw(st.lists(spots, min_size=1, max_size=6)):
        mutated[at] = data.draw(st.integers(0, 255))
    try:
        read = reader.read(seal.seal(bytes(mutated)))
        _ = read.policy
    except (OperationError, seal.ElfError):
        pass


@given(st.binary(max_size=200).map(lambda tail: SOUND[:16] + tail))
def test_garbage_behind_the_magic_is_refused(data: bytes) -> None:
    refusal(data)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo, tmp_path / "missing", Path("/dev/zero"), tmp_path / "a\nb", "nul\0"):
        with pytest.raises(OperationError) as caught:
            reader.read(path)
        assert caught.value.exit_code == 2
        assert caught.value.message.isprintable()


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.o").write_bytes(SOUND)
    assert reader.read(tmp_path / "x.o").manifest == reader.read(SOUND).manifest


def test_reading_imports_neither_compiler_nor_loader() -> None:
    import subprocess
    import sys

    code = "import sys, policyc.artifact.reader; print([m for m in ('llvmlite', 'lark', 'cffi') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
