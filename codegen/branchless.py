"""Comparisons and choices without branches, which a processor cannot foresee where keys are random: BPF has no conditional move."""

from __future__ import annotations

from policyc.codegen.function import Function, Value

NONE = (1 << 63) - 1
"""A best cell where no rule matches: above all others, and no u64 difference of two cells overflows."""


def at_most(f: Function, a: Value, b: Value) -> Value:
    """All ones (i64) if a <= b, else zero; both i64 below 2^63."""
    return f.not_(f.sar(f.sub(b, a), 63))


def above(f: Function, a: Value, b: Value) -> Value:
    """All ones (i64) if a > b, else zero; both i64 below 2^63."""
    return f.sar(f.sub(b, a), 63)


def smaller(f: Function, a: Value, b: Value) -> Value:
    """The smaller of two i64 below 2^63."""
    difference = f.sub(a, b)
    return f.add(b, f.and_(difference, f.sar(difference, 63)))


def borrow(f: Function, a: Value, b: Value) -> Value:
    """1 if a < b, else 0, for any u64 (Hacker's Delight 2-13)."""
    not_a = f.not_(a)
    return f.shr(f.or_(f.and_(not_a, b), f.and_(f.or_(not_a, b), f.sub(a, b))), 63)


def is_zero(f: Function, a: Value) -> Value:
    """All ones (i64) if an i64 below 2^63 is 0, else zero."""
    return f.sar(f.sub(a, 1), 63)
