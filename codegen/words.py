"""Text eight bytes at a time. A word is an i64 loaded from memory, its first byte the lowest; *flags* have bit 7 of some of its bytes and no other.
From the lowest flag on, what a function says of a word may be cut off: who asks looks at the first."""

from __future__ import annotations

from policyc.codegen.function import I32, I64, Function, Value

ONES = 0x0101010101010101
FLAGS = 0x80 * ONES
LOW = 0x7F * ONES
WORD = 8


def below(f: Function, word: Value, limit: int) -> Value:
    """Flags of bytes below `limit` (at most 0x80), of which only the first is certain."""
    return f.and_(f.and_(f.sub(word, limit * ONES), f.not_(word)), I64(FLAGS))


def equal(f: Function, word: Value, byte: int) -> Value:
    """Flags of bytes that are `byte`."""
    other = f.xor(word, byte * ONES)
    return f.and_(f.not_(f.or_(f.add(f.and_(other, LOW), LOW), other)), I64(FLAGS))


def plain_letters(f: Function, word: Value) -> Value:
    """Flags of letters, digits and hyphens."""
    raw = f.and_(word, LOW)
    letters = _within(f, f.or_(raw, 0x20 * ONES), "a", "z")
    found = f.or_(f.or_(letters, _within(f, raw, "0", "9")), equal(f, word, ord("-")))
    return f.and_(f.and_(found, f.not_(word)), I64(FLAGS))


def _within(f: Function, raw: Value, first: str, last: str) -> Value:
    """Bit 7 of bytes (all below 0x80) from `first` to `last`; other bits are anything."""
    return f.and_(f.add(raw, (0x80 - ord(first)) * ONES), f.not_(f.add(raw, (0x7F - ord(last)) * ONES)))


def before_first(f: Function, flags: Value) -> Value:
    """Flags of all bytes before the first flagged one; of all bytes where none is."""
    return f.and_(f.sub(f.and_(flags, f.sub(0, flags)), 1), I64(FLAGS))


def first(f: Function, flags: Value) -> Value:
    """Index (i32) of the first flagged byte; there is one."""
    one = f.shr(f.and_(flags, f.sub(0, flags)), 7)
    return f.to(f.shr(f.mul(one, 0x0001020304050607), 56), I32)


def text(letters: bytes) -> int:
    """The word, or its beginning, that these bytes make."""
    return int.from_bytes(letters, "little")
