"""Generations: the number in `config` under which packets are judged. Counted up, it has live connections judged again.

A load that replaces another has the next number, and shares its tables. Taken back after it judged, it leaves entries of that
number, which the old load must never reach: it does not know what they were allowed by."""

from __future__ import annotations

from policyc.artifact.layout import CONFIG, LAST_GENERATION
from policyc.runtime.pins import ZERO, Pins


def following(generation: int) -> int:
    return generation % LAST_GENERATION + 1


def pass_over(pins: Pins, number: int) -> None:
    """Counts the generation of load number `number` beyond that of one that was to replace it. Can be done again. Where its pins
    were taken away there is nothing that could go on."""
    config = pins.optional_map("config", number)
    if config is None:
        return
    try:
        fields = list(CONFIG.unpack(config.lookup(ZERO) or bytes(CONFIG.size)))
        fields[1] = following(following(fields[1]))
        config.update(ZERO, CONFIG.pack(*fields))
    finally:
        config.close()
