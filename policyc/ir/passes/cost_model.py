"""cost-model: how CIDR tables are searched, and which rows are decided in the code.

All figures are ns a packet with random keys, measured by `benchmarks/bench_primitives.py` (docs/performance.md).

An IPv4 table is cut into buckets by the upper bits of an address. More bits make buckets smaller and the index of buckets larger,
until it leaves a cache. A search makes as many steps in every bucket, which no processor can guess wrong, and further steps in the
few buckets that have more starts.
A tree of compares is not among the choices: with random keys its branches cannot be foreseen, and a level of it costs
BRANCH, three times a step of a search without branches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from policyc.ir.passes.base import Pass
from policyc.ir.tables import EMPTY, CidrTable, Row, Tables

SEARCH_STEP = 1.3  # of a search without branches, its numbers in the first cache
BRANCH = 4.0  # that is as likely as not
CONSTANT = 1.2  # an interval of keys compared with constants in the code
RECORD = 4.0  # a row's record loaded and its interval compared
CACHES = ((24 << 10, 1.5), (768 << 10, 4.0), (16 << 20, 14.0))  # a load at a random place: of so many bytes at most, ns
MEMORY = 70.0
MOST_BITS = 20
INDEX_ENTRY, CIDR_ENTRY = 4, 4  # bytes; of many leaves an entry has 8


def load_cost(size: int) -> float:
    """ns of a load at a random place among `size` bytes."""
    return next((cost for most, cost in CACHES if size <= most), MEMORY)


def bucket_sizes(starts: list[int], bits: int, address_bits: int) -> Counter[int]:
    """How many buckets of the upper `bits` bits have how many starts, counting the one in which the bucket begins."""
    shift = address_bits - bits
    begun = Counter(start >> shift for start in starts if start)
    sizes = Counter(n + 1 for n in begun.values())
    sizes[1] += (1 << bits) - len(begun)
    return sizes


def _steps(choices: int) -> int:
    return (choices - 1).bit_length()


def index_choice(sizes: Counter[int], bits: int, entries: int) -> tuple[float, int]:
    """The cost of a search with such buckets, and how many steps every bucket makes. Half of the packets are taken to
    be anywhere, half where the starts are."""
    buckets, starts = sum(sizes.values()), sum(n * count for n, count in sizes.items())
    shares: dict[int, float] = {}
    for n, count in sizes.items():
        share = count / buckets / 2 + n * count / starts / 2
        shares[_steps(n)] = shares.get(_steps(n), 0.0) + share
    loads = load_cost(INDEX_ENTRY << bits) + load_cost(CIDR_ENTRY * entries)
    step = SEARCH_STEP + load_cost(CIDR_ENTRY * entries) / 16  # so many entries stand in a line of a cache

    def cost(steps: int) -> float:
        more = {s: share for s, share in shares.items() if s > steps}
        missed = min(sum(more.values()), 0.5)
        return steps * step + missed * BRANCH + sum(share * (BRANCH + (s - steps) * step) for s, share in more.items())

    best = min(range(max(shares) + 1), key=lambda steps: (cost(steps), steps))
    return loads + cost(best), best


def _v4(table: CidrTable) -> tuple[int, int]:
    """Bits and steps."""
    starts = [start for start, _ in table.v4]
    if len(starts) == 1:
        return 0, 0
    most = min(len(starts).bit_length() + 3, MOST_BITS)
    choices = []
    for bits in range(max(most - 8, 1), most + 1):
        cost, steps = index_choice(bucket_sizes(starts, bits, 32), bits, len(starts))
        choices.append((cost, bits, steps))
    _, bits, steps = min(choices)
    return bits, steps


def _v6(table: CidrTable) -> int:
    """As many buckets as starts, about: its range is known from the table, so that buckets are seldom empty."""
    return min(len(table.v6).bit_length(), MOST_BITS) if len(table.v6) > 1 else 0


def inlined(row: Row) -> bool:
    """Whether deciding the row by constants costs less than loading its record; each further interval is one more compare."""
    matching = 0
    for first, cell in row.cells:
        if first >= 1 << 24:
            break
        matching += cell != EMPTY
    return CONSTANT * matching < RECORD


def _class_rows(tables: Tables) -> Iterable[int]:
    return {row for g in tables.groups for row in (g.row_world, g.row_host, g.row_endpoint)}


def _run(tables: Tables) -> Tables:
    cidr_tables = []
    for table in tables.cidr_tables:
        bits4, steps4 = _v4(table)
        cidr_tables.append(replace(table, bits4=bits4, steps4=steps4, bits6=_v6(table)))
    rows = tuple(sorted(row for row in _class_rows(tables) if inlined(tables.rows[row])))
    return replace(tables, cidr_tables=tuple(cidr_tables), inline_rows=rows)


COST_MODEL = Pass("cost-model", Tables, Tables, _run)
