"""Checks of the type information (BTF) in an object: libbpf follows what stands there without looking.

Layout: Documentation/bpf/btf.rst of the kernel. Little-endian; type ids count from 1, 0 is `void`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from policyc.artifact.elf import ElfError

HEADER = struct.Struct("<HBBIIIII")
TYPE = struct.Struct("<III")
MAGIC, VERSION = 0xEB9F, 1
PTR, ARRAY, STRUCT, UNION, FUNC, FUNC_PROTO, VAR, DATASEC = 2, 3, 4, 5, 12, 13, 14, 15
REFERENCES = frozenset({PTR, 8, 9, 10, 11, FUNC, VAR, 17, 18})  # third word is a type: also typedef, qualifiers, tags
CONTAINED = frozenset({ARRAY, STRUCT, UNION, 8, 9, 10, 11, 18})  # a type among these that reaches itself has no size
# What follows the three words: bytes always, bytes for each of `vlen` members.
TAILS = {1: (4, 0), ARRAY: (12, 0), STRUCT: (0, 12), UNION: (0, 12), 6: (0, 8), FUNC_PROTO: (0, 8), VAR: (4, 0)}
TAILS |= {DATASEC: (0, 12), 17: (4, 0), 19: (0, 12)} | dict.fromkeys((PTR, 7, 8, 9, 10, 11, FUNC, 16, 18), (0, 0))
MEMBER_NAMED = frozenset({STRUCT, UNION, 6, FUNC_PROTO, 19})


@dataclass
class _Type:
    kind: int
    names: list[int] = field(default_factory=list)  # offsets into the strings
    types: list[int] = field(default_factory=list)  # ids it refers to


def check(section: bytes) -> None:
    """Raises `ElfError` unless every name and type that is referred to is there, and no type contains itself."""
    types, strings = _parts(section)
    read = [_Type(0), *_types(types)]
    for one in read:
        if any(name >= len(strings) for name in one.names):
            raise ElfError("a name in its BTF is not there")
        if any(inner >= len(read) for inner in one.types):
            raise ElfError("a type in its BTF is not there")
    for one in read:
        wanted = {FUNC: FUNC_PROTO, DATASEC: VAR}.get(one.kind)
        if wanted is not None and any(read[inner].kind != wanted for inner in one.types):
            raise ElfError("a type in its BTF is of the wrong kind")
    _check_containment(read)


def _parts(section: bytes) -> tuple[bytes, bytes]:
    """The types and the strings."""
    if len(section) < HEADER.size:
        raise ElfError("its BTF is truncated")
    magic, version, _, length, type_at, type_size, string_at, string_size = HEADER.unpack_from(section)
    if magic != MAGIC or version != VERSION or length != HEADER.size:
        raise ElfError("its BTF is malformed")
    body = section[length:]
    if type_at + type_size > len(body) or string_at + string_size > len(body):
        raise ElfError("its BTF is truncated")
    strings = body[string_at : string_at + string_size]
    if strings[:1] != b"\0" or strings[-1:] != b"\0":
        raise ElfError("the strings of its BTF are malformed")
    return body[type_at : type_at + type_size], strings


def _types(data: bytes) -> Iterator[_Type]:
    at = 0
    while at < len(data):
        if at + TYPE.size > len(data):
            raise ElfError("its BTF is truncated")
        name, info, third = TYPE.unpack_from(data, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        if kind not in TAILS:
            raise ElfError("its BTF has an unknown kind of type")
        fixed, each = TAILS[kind]
        start, at = at + TYPE.size, at + TYPE.size + fixed + each * count
        if at > len(data):
            raise ElfError("its BTF is truncated")
        one = _Type(kind, [name])
        if kind in REFERENCES or kind == FUNC_PROTO:
            one.types.append(third)
        words = struct.unpack_from(f"<{(at - start) // 4}I", data, start)
        if kind == ARRAY:
            one.types += words[:2]
        elif kind == DATASEC:
            one.types += words[::3]
        elif kind in MEMBER_NAMED:
            one.names += words[:: each // 4]
            one.types += words[1 :: each // 4] if kind in (STRUCT, UNION, FUNC_PROTO) else ()
        yield one


def _check_containment(types: list[_Type]) -> None:
    """Depth first without recursion; `done` is None while a type is being looked into."""
    done: dict[int, bool | None] = {}
    for start in range(len(types)):
        stack = [start]
        while stack:
            current = stack[-1]
            if current in done:
                stack.pop()
                done[current] = True
                continue
            done[current] = None
            for inner in types[current].types if types[current].kind in CONTAINED else ():
                if inner not in done:
                    stack.append(inner)
                elif done[inner] is None:
                    raise ElfError("a type in its BTF contains itself")
