"""Objects that somebody sealed again after changing them: neither libbpf nor the loader believes what is not so."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from random import Random

import pytest

from policyc.artifact import btf, reader, seal, writer
from policyc.artifact import manifest as manifests
from policyc.artifact.elf import ElfError, contents, sections
from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.driver import compile_files
from tests.artifact.objects import artifact as made_by_hand


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("objects") / "x.pol"
    file.write_text("identity web { app == web }\npolicy p for web { ingress { allow from web on tcp/80 } }\n")
    return compile_files([str(file)])


def type_information(data: bytes) -> tuple[int, bytes]:
    """Where it stands in the file, and what it is."""
    section = next(s for s in sections(data) if s.name == ".BTF")
    return section.offset, contents(data, section)


def test_types_that_are_not_there_are_refused(compiled: bytes) -> None:
    """Each word of the types in turn far out of range: what reading leaves in is what no type or name refers to."""
    offset, section = type_information(compiled)
    btf.check(section)
    size = struct.unpack_from("<I", section, 12)[0]
    refused = 0
    for at in range(24, 24 + size - 3, 4):
        changed = section[:at] + b"\xff\xff\xff\x7f" + section[at + 4 :]
        try:
            btf.check(changed)
        except ElfError:
            refused += 1
    assert refused > size / 4 / 2
    with pytest.raises(OperationError, match="BTF"):
        reader.read(seal.seal(compiled[: offset + 24] + b"\xff" * size + compiled[offset + 24 + size :]))


@pytest.mark.parametrize("chain", [[1], [2, 1], [2, 3, 1]])
def test_a_type_that_contains_itself_is_refused(chain: list[int]) -> None:
    types = b"".join(struct.pack("<III", 0, 8 << 24, target) for target in chain)  # typedefs
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), 1)
    with pytest.raises(ElfError, match="contains itself"):
        btf.check(header + types + b"\0")


def test_random_type_information_never_raises_anything_else(compiled: bytes) -> None:
    _, section = type_information(compiled)
    for seed in range(300):
        random = Random(seed)
        data = bytearray(section)
        for _ in range(random.randint(1, 8)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            btf.check(bytes(data[: random.choice([len(data), random.randrange(len(data))])]))
        except ElfError:
            pass


def test_rules_that_the_policy_does_not_have_are_refused() -> None:
    document = manifests.to_json(reader.read(made_by_hand()).manifest)
    document["policy"]["policies"] = []
    bare = made_by_hand().replace(b"policyc.", b"another.")
    found = reader.read(writer.attach(bare, json.dumps(document).encode()))
    with pytest.raises(OperationError, match="its policy does not have"):
        _ = found.policy


@pytest.mark.bpf
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: dataclasses.replace(m, rules=m.rules * 3), "map counters"),
        (
            lambda m: dataclasses.replace(
                m, identity_layout=dataclasses.replace(m.identity_layout, max_peers=1000, same_keys=50)
            ),
            "map identities",
        ),
    ],
)
def test_maps_that_are_not_what_the_manifest_says(compiled: bytes, change, words: str, tmp_path: Path) -> None:
    from policyc.kernel_engine import KernelLoad

    sound = reader.read(compiled)
    with pytest.raises(OperationError, match=words) as caught:
        KernelLoad(Artifact("x.o", sound.object, change(sound.manifest)))
    assert caught.value.exit_code == 2


@pytest.mark.bpf
@pytest.mark.parametrize("name", ["config", "events", "switch", "next_tc_ingress"])
def test_a_map_of_another_name(compiled: bytes, name: str) -> None:
    from policyc.kernel_engine import KernelLoad

    word = f"\0{name}\0".encode()
    assert word in compiled
    renamed = seal.seal(compiled.replace(word, word[:-2] + b"Q\0"))
    with pytest.raises(OperationError, match="not a usable policyc artifact"):
        KernelLoad(reader.read(renamed))
