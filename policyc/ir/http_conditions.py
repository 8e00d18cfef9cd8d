"""The conditions of a component: numbers, and what is asked of the values of each header and query key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from policyc.diagnostics import OperationError
from policyc.ir.http_automata import Automata, Source, value_expression
from policyc.ir.http_guards import QUERY_VALUE, value_reading
from policyc.ir.http_tables import MAX_CONDITIONS, NamedValues
from policyc.model import Action, HttpCondition, HttpEntry, Pattern, Span

Kind = Literal["header", "query"]
Value = tuple[str, str]  # a pattern's kind and text
UPGRADE = "upgrade"


def alike(name: str) -> str:
    """Names that differ only in `_` for `-` have one of these."""
    return name.replace("_", "-")


@dataclass(frozen=True)
class _Key:
    """What two conditions share that are one. `fold`: letters of values are folded."""

    kind: Kind
    name: str
    values: frozenset[Value]
    absent: bool
    fold: bool = False


@dataclass
class _Asked:
    """What is asked of one name: `bits` of conditions without values, and the alternatives of the others, by bit."""

    present: int = 0
    valued: dict[int, tuple[Pattern, ...]] = field(default_factory=dict)
    all: int = 0
    fold: bool = False


class Conditions:
    """Numbers the conditions of one component in the order of first use."""

    def __init__(self) -> None:
        self._numbers: dict[_Key, int] = {}
        self._asked: dict[tuple[Kind, str], _Asked] = {}
        self._absent: dict[tuple[Kind, str], int] = {}  # masks, by what names are alike

    def of_entry(self, entry: HttpEntry) -> tuple[int, int]:
        """The masks of an entry's conditions, and of those of them that hold where there is no such line."""
        conditions = absent = 0
        for condition in entry.conditions:
            bit = self._bit(condition, entry.span)
            conditions |= bit
            absent |= bit if condition.absent else 0
        denies = entry.action is Action.DENY
        if entry.upgrade or (denies and entry.upgrade is not None):
            patterns = tuple(Pattern("string", protocol.lower(), entry.span) for protocol in entry.upgrade)
            bit = self._bit(HttpCondition("header", UPGRADE, patterns), entry.span, fold=True)
            conditions |= bit
            absent |= 0 if denies else bit
        return conditions, absent

    def _bit(self, condition: HttpCondition, span: Span, fold: bool = False) -> int:
        values = frozenset((p.kind, p.text) for p in condition.values)
        key = _Key(condition.kind, condition.name, values, condition.absent, fold)
        known = self._numbers.get(key)
        if known is not None:
            return 1 << known
        if len(self._numbers) == MAX_CONDITIONS:
            raise OperationError(
                f"{span}: with this entry the rules that can meet on a connection have more than {MAX_CONDITIONS} different conditions on headers and queries",
                help="alternatives of one condition count once: list them in one entry; or give the rules subjects, services or priorities "
                "by which they cannot meet",
            )
        number = self._numbers[key] = len(self._numbers)
        self._note(condition, 1 << number, fold)
        return 1 << number

    def _note(self, condition: HttpCondition, bit: int, fold: bool) -> None:
        if condition.absent:
            like = condition.kind, alike(condition.name)
            self._absent[like] = self._absent.get(like, 0) | bit
        asked = self._asked.setdefault((condition.kind, condition.name), _Asked())
        asked.all |= bit
        asked.fold |= fold
        if condition.values and not condition.absent:
            asked.valued[bit] = condition.values
        elif not condition.absent:
            asked.present |= bit

    def names(self, kind: Kind) -> list[str]:
        """The names that are asked for, in the order of first use."""
        return [name for of_kind, name in self._asked if of_kind == kind]

    def named(self, kind: Kind, name: str, automata: Automata, skip: int) -> NamedValues:
        """What is asked of lines (or keys) of this name, which is asked for. `skip`: the reader of values of which nothing is asked."""
        asked = self._asked[kind, name]
        everything = asked.all | self._absent.get((kind, alike(name)), 0)
        if not asked.valued:
            return NamedValues(name, skip, (asked.present,), everything)
        bits = list(asked.valued)
        sources = [
            Source(value_expression(pattern), mark, pattern.text, pattern.span)
            for mark, bit in enumerate(bits)
            for pattern in asked.valued[bit]
        ]
        reading = value_reading(asked.fold) if kind == "header" else QUERY_VALUE
        index, found = automata.classes(reading, sources, f'{kind} "{name}"')
        masks = (sum(bits[m] for m in marks) | asked.present for _, marks in found)
        return NamedValues(name, index, (asked.present, *masks), everything)

    def variant(self, kind: Kind, name: str, skip: int) -> NamedValues | None:
        """What is asked of lines whose names differ from `name` only in `_` for `-`; None: nothing."""
        absent = self._absent.get((kind, alike(name)), 0)
        return NamedValues(name, skip, (0,), absent) if absent else None
