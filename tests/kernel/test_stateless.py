"""`compile --stateless`: the programs judge every packet by itself, as a machine does that forgets after each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policyc.artifact.reader import Artifact, read
from policyc.reference.machine import Machine
from policyc.reference.verdict import Judgement

pytestmark = pytest.mark.bpf

SEEDS, PACKETS = range(2000, 2006), 600


class Forgetful(Machine):
    def packet(self, *args: Any, **kwargs: Any) -> Judgement:
        self.connections.clear()
        self.fragments.clear()
        judgement = super().packet(*args, **kwargs)
        self.noted.opened = False
        return judgement


def compile_stateless(text: str, structure: str) -> Artifact:
    from scenario import checked
    from structures import STRUCTURES

    from policyc.codegen.emit import compile_object
    from policyc.ir.pipeline import build

    policy = checked(text)
    tables = replace(STRUCTURES[structure].tables(build(policy)), stateless=True)
    artifact = read(compile_object(tables, policy, {}, "").object)
    assert artifact.manifest.stateless
    return artifact


@pytest.mark.parametrize("seed", SEEDS)
def test_packets_are_judged_as_if_none_had_come_before(seed: int, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import packets_differential
    from packets_differential import Loads, play
    from scenario import draw, ground

    monkeypatch.setattr(packets_differential.model, "Machine", Forgetful)
    on = ground(seed)
    with Loads(on.policies, on.structure, compile_stateless) as loads:
        played = play(draw(on, seed, 0, PACKETS), place, loads)
    assert played.differences == [], f"seed {seed}"
    assert played.packets > 0
    assert not {reason for _, reason in played.answers} & {"established", "related", "table-full"}
