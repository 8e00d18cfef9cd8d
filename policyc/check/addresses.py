"""Addresses, prefixes and sets of them. Ranges are inclusive pairs of integers in host order."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from policyc.model import AddressSet

Range = tuple[int, int]
Family = Literal["4", "6"]
BITS: dict[Family, int] = {"4": 32, "6": 128}
MAPPED = 0xFFFF << 32


class BadAddress(Exception):
    """`name` is the name of a diagnostic."""

    def __init__(self, name: str, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.help = help


@dataclass(frozen=True)
class Prefix:
    family: Family
    first: int
    length: int

    @property
    def range(self) -> Range:
        return self.first, self.first | ((1 << (BITS[self.family] - self.length)) - 1)


def number(text: str) -> tuple[Family, int]:
    """An address without prefix length. Raises BadAddress, also for IPv4-mapped ones."""
    try:
        if ":" not in text:
            return "4", int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
        value = int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    except (OSError, ValueError):
        raise BadAddress("bad-address", f"`{text[:60]}` is not an address") from None
    if value >> 32 == 0xFFFF:
        help = f"write {text_of('4', value & 0xFFFFFFFF)}"
        raise BadAddress("mapped-address", f"`{text}` is an IPv4-mapped address", help)
    return "6", value


def prefix(text: str) -> Prefix:
    """`ADDRESS` or `ADDRESS/LENGTH`. Raises BadAddress, also where host bits are set."""
    base, slash, tail = text.partition("/")
    if "-" in base or "-" in tail:
        help = "ranges stand only in feed files; write prefixes"
        raise BadAddress("bad-address", f"`{text[:60]}` is not an address or prefix", help)
    mapped = False
    try:
        family, value = number(base)
    except BadAddress as error:
        if error.name != "mapped-address":
            raise
        mapped, family, value = True, "6", int.from_bytes(socket.inet_pton(socket.AF_INET6, base), "big")
    bits = BITS[family]
    length = bits
    if slash:
        if not tail.isascii() or not tail.isdigit() or len(tail) > 3 or int(tail) > bits:
            raise BadAddress("bad-address", f"`{text[:60]}` has a bad prefix length", f"use 0 to {bits}")
        length = int(tail)
    if mapped and length >= 96:
        write = text_of("4", value & 0xFFFFFFFF) + (f"/{length - 96}" if slash else "")
        raise BadAddress("mapped-address", f"`{text}` is an IPv4-mapped address", f"write {write}")
    host = value & ((1 << (bits - length)) - 1)
    if host:
        masked = text_of(family, value - host)
        help = f"write {masked}/{length}, or {base} for the one address"
        raise BadAddress("host-bits", f"`{text}` has bits set behind its prefix", help)
    return Prefix(family, value, length)


def text_of(family: Family, value: int) -> str:
    if family == "4":
        return socket.inet_ntop(socket.AF_INET, value.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16, "big"))


# --- sets ---------------------------------------------------------------------------------------------------------


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, disjoint and not adjacent."""
    result: list[Range] = []
    first, last = -1, -2
    for a, b in sorted(ranges):
        if a <= last + 1:
            last = max(last, b)
            continue
        if last >= 0:
            result.append((first, last))
        first, last = a, b
    if last >= 0:
        result.append((first, last))
    return tuple(result)


def without(ranges: tuple[Range, ...], removed: tuple[Range, ...]) -> tuple[Range, ...]:
    """`ranges` minus `removed`, both canonical."""
    result: list[Range] = []
    at = 0
    for a, b in ranges:
        while at < len(removed) and removed[at][1] < a:
            at += 1
        k = at
        while k < len(removed) and removed[k][0] <= b:
            if removed[k][0] > a:
                result.append((a, removed[k][0] - 1))
            a = removed[k][1] + 1
            k += 1
        if a <= b:
            result.append((a, b))
    return tuple(result)


def union(sets: Iterable[AddressSet]) -> AddressSet:
    members = list(sets)
    if len(members) == 1:
        return members[0]
    return AddressSet(merged(r for s in members for r in s.v4), merged(r for s in members for r in s.v6))


def difference(whole: AddressSet, removed: AddressSet) -> AddressSet:
    return AddressSet(without(whole.v4, removed.v4), without(whole.v6, removed.v6))


def size(s: AddressSet) -> int:
    """How many ranges it has."""
    return len(s.v4) + len(s.v6)


def of_prefix(p: Prefix) -> AddressSet:
    return AddressSet(v4=(p.range,)) if p.family == "4" else AddressSet(v6=(p.range,))


def is_empty(s: AddressSet) -> bool:
    return not s.v4 and not s.v6
