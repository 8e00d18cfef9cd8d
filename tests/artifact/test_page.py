"""docs/artifact.md says what the code does: every field of the manifest, every map, every reason, the sizes."""

from __future__ import annotations

import re
from pathlib import Path

from policyc.artifact import manifest as manifests
from policyc.artifact import reader
from policyc.artifact.layout import EVENT, Reason, map_specs
from policyc.artifact.seal import BLANK
from policyc.artifact.stream_layout import STREAM_EVENT, stream_map_specs
from tests.artifact.objects import LAYOUT, artifact

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "artifact.md").read_text()


def first_column(heading: str) -> set[str]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", section, re.M)
    return set(re.findall(r"`([^`]+)`", " ".join(cells)))


def test_every_field_of_the_manifest_is_there() -> None:
    assert first_column("Manifest") == set(manifests.to_json(reader.read(artifact()).manifest))


def test_every_map_is_there() -> None:
    assert first_column("Maps") == {m.name for m in map_specs(LAYOUT, 1)} | {"next_HOOK"}
    assert {m.name for m in stream_map_specs()} <= first_column("Streams")


def test_reasons_and_sizes() -> None:
    assert all(f"{int(reason)} `{reason.word}`" in PAGE for reason in Reason)
    assert f"**Event** ({EVENT.size} bytes)" in PAGE
    assert f"**Request** ({STREAM_EVENT.size} bytes)" in PAGE
    assert f"| {len(BLANK)} bytes: `policyc-sha256:`" in PAGE
    assert f"Format version {manifests.VERSION[0]}.{manifests.VERSION[1]}." in PAGE
