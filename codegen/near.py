"""Small arrays in front of hash tables that are asked for the same few keys all the time: attach points, own addresses.

A slot holds, as u64, each word of the key xor value * ODD, then the value with the generation under which it was looked up in the upper
half. Programs fill the slots, of a generation only what they found under it. What two CPUs mixed fits no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policyc.artifact.layout import NEAR_SLOTS
from policyc.codegen.flow import Flow
from policyc.codegen.function import I32, I64, Function, Value
from policyc.codegen.maps import Maps

ODD = 0x9E3779B97F4A7C15  # 2**64 / golden ratio


@dataclass
class Near:
    """The slot of `key` (i64 words, as many as fit the map's slots) in `map_`, if the array has one for it."""

    f: Function
    slot: Value  # may be null
    key: Sequence[Value]
    generation: Value

    @classmethod
    def at(cls, f: Function, maps: Maps, map_: str, key: Sequence[Value], flow: Flow) -> Near:
        hash_ = key[0]
        for word in key[1:]:
            hash_ = f.xor(f.mul(hash_, ODD), word)
        index = f.shr(f.mul(hash_, ODD), 64 - (NEAR_SLOTS - 1).bit_length())
        return cls(f, f.lookup_index(maps[map_], f.to(index, I32)), key, flow.get("generation"))

    def get(self) -> Value:
        """The value (i32), 0 where there is none."""
        f = self.f
        found = f.var(0, I32)
        with f.if_(f.not_null(self.slot)):
            value = f.load(self.slot, I64, 8 * len(self.key))
            differs = f.xor(f.shr(value, 32), f.to(self.generation, I64))
            for i, word in enumerate(self._bound(value)):
                differs = f.or_(differs, f.xor(f.load(self.slot, I64, 8 * i), word))
            with f.if_(f.eq(differs, 0)):
                found.set(f.to(value, I32))
        return found.get()

    def put(self, value: Value) -> None:
        """`value` (i32), not 0."""
        f = self.f
        with f.if_(f.not_null(self.slot)):
            whole = f.or_(f.to(value, I64), f.shl(f.to(self.generation, I64), 32))
            for i, word in enumerate(self._bound(whole)):
                f.store(self.slot, word, offset=8 * i)
            f.store(self.slot, whole, offset=8 * len(self.key))

    def _bound(self, value: Value) -> list[Value]:
        """The key's words as they stand beside `value`: none of them, nor the value, can be another slot's."""
        f = self.f
        words, mask = [], f.mul(value, ODD)
        for word in self.key:
            words.append(f.xor(word, mask))
            mask = f.mul(f.xor(mask, word), ODD)
        return words
