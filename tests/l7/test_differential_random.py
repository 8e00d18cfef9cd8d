"""The same for random rules and streams, at a server and at a client, and for what once differed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.l7.differential import Kernel, draw, play, same
from tests.l7.differential_case import ground, is_egress, of_corpus, read
from tests.l7.place import Scene
from tests.l7.random_splits import every_byte, every_split
from tests.reference import http_corpus as corpus

pytestmark = pytest.mark.bpf

CASES = [of_corpus(case) for case in corpus.CASES]
FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))
SEEDS, PORTS, STREAMS = range(100, 103), 60, 45
FLOOR = 9000  # requests that the random cases judge


def test_at_a_client_the_corpus_is_judged_before_bytes_leave(on_loopback: Scene) -> None:
    with Kernel(on_loopback).loaded(ground(CASES, egress=True)) as loaded:
        done = loaded.play(CASES, closing=True)
        done.add(loaded.play([cut for case in CASES for cut in every_byte(case)]))
        done.add(loaded.play([cut for case in CASES[::4] for cut in every_split(case)]))
    on_loopback.rest()
    same(done)


@pytest.mark.parametrize(("seed", "egress"), [*((seed, False) for seed in SEEDS), (SEEDS[0], True)])
def test_random_rules_and_streams(seed: int, egress: bool, on_loopback: Scene) -> None:
    version = 6 if seed % 2 else 4
    on, cases = draw(seed, PORTS, STREAMS, version, egress)
    with Kernel(on_loopback, version).loaded(on) as loaded:
        done = loaded.play(cases)
    on_loopback.rest()
    same(done)
    assert done.requests > FLOOR // len(SEEDS)


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.stem)
def test_what_differed_once_does_not_differ_again(file: Path, on_loopback: Scene) -> None:
    text = file.read_text()
    done = play(Kernel(on_loopback), [read(text)], closing=True, egress=is_egress(text))
    on_loopback.rest()
    same(done)
