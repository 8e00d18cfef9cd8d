"""What the automata of HTTP tables read, for people: which of them a policy makes large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policyc.ir.http_tables import HttpTables


@dataclass(frozen=True)
class Reads:
    """Of one automaton: the parts of a request that it reads; the rank of the first rule for which it does, None where it does for all."""

    parts: tuple[str, ...]
    rule: int | None


def reads(tables: HttpTables) -> tuple[Reads, ...]:
    """By automaton."""
    parts: list[dict[str, None]] = [{} for _ in tables.automata]
    ranks: list[set[int | None]] = [set() for _ in tables.automata]
    for index, part, rank in _uses(tables):
        parts[index][part] = None
        ranks[index].add(rank)
    return tuple(Reads(tuple(p), _first(r)) for p, r in zip(parts, ranks, strict=True))


def _first(ranks: set[int | None]) -> int | None:
    known = {rank for rank in ranks if rank is not None}
    return min(known) if known == ranks and known else None


def _uses(tables: HttpTables) -> Iterator[tuple[int, str, int | None]]:
    """Automaton, part of a request, rule."""
    yield tables.method, "method", None
    yield tables.name, "header name", None
    yield tables.chunked, "header transfer-encoding", None
    yield tables.expect, "header expect", None
    yield tables.skip_value, "any other header", None
    yield tables.skip_query_key, "any other query key", None
    yield tables.skip_query, "any other query value", None
    for component in tables.components:
        rank = min(component.rules)
        yield component.path, "path", rank
        yield component.host, "host", rank
        if component.query_key != tables.skip_query_key:
            yield component.query_key, "query key", rank
        asked = [(named, "query") for named in component.queries]
        asked += [(named, "header") for named in component.headers if named is not None]
        for named, kind in asked:
            if named.automaton not in (tables.skip_query, tables.skip_value):
                yield named.automaton, f"{kind} {named.name}", rank
