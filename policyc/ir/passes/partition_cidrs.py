"""partition-cidrs: the addresses of both families cut into classes by the CIDR sets that contain them.

Groups that use the same sets share a partition; one whose nested sets would make too many cells has several. One sweep over the sorted range borders of n ranges is O(n log n): the
membership after a border is found from the one before it and the set that begins or ends, so that memberships are built
once each however often they come back."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate

from policyc.ir.flat import CidrPeer, FlatGroup, Module, Partition
from policyc.ir.numbering import Numbering
from policyc.ir.passes.base import Pass
from policyc.ir.passes.limits import CellBudget
from policyc.model import AddressSet

BEGINS, ENDS = 1, 0
LAYER_CELLS = 1_000_000  # 12 MB, what a processor's last cache holds; another layer costs a packet one more search
MOST_LAYERS = 6
Ranges = Sequence[tuple[int, int]]


def partition(sets: tuple[int, ...], address_sets: Sequence[AddressSet], budget: CellBudget) -> Partition:
    """The partition by `sets`, ascending indices into `address_sets`."""
    memberships = _Memberships(budget)
    v4 = _sweep(memberships, [(s, address_sets[s].v4) for s in sets], 2**32)
    v6 = _sweep(memberships, [(s, address_sets[s].v6) for s in sets], 2**128)
    classes = Numbering[int]()
    classes(memberships.NONE)
    return Partition(
        sets=sets,
        v4=tuple((start, classes(node)) for start, node in v4),
        v6=tuple((start, classes(node)) for start, node in v6),
        members=tuple(memberships.members[node] for node in classes.indices),
    )


class _Memberships:
    """Distinct ascending tuples of set indices, and what each becomes when a set begins or ends."""

    NONE = 0

    def __init__(self, budget: CellBudget) -> None:
        self.members: list[tuple[int, ...]] = [()]
        self._nodes: dict[tuple[int, ...], int] = {(): self.NONE}
        self._next: dict[tuple[int, int], int] = {}
        self._budget = budget

    def toggle(self, node: int, member: int) -> int:
        step = (node, member)
        found = self._next.get(step)
        if found is None:
            found = self._next[step] = self._toggled(self.members[node], member)
        return found

    def _toggled(self, members: tuple[int, ...], member: int) -> int:
        self._budget.take(len(members))
        if member in members:
            members = tuple(m for m in members if m != member)
        else:
            members = tuple(sorted((*members, member)))
        node = self._nodes.setdefault(members, len(self.members))
        if node == len(self.members):
            self.members.append(members)
        return node


def _sweep(memberships: _Memberships, sets: list[tuple[int, Ranges]], end: int) -> list[tuple[int, int]]:
    """(start, membership) over the addresses 0..end-1."""
    borders = [(first, BEGINS, s) for s, ranges in sets for first, _ in ranges]
    borders += [(last + 1, ENDS, s) for s, ranges in sets for _, last in ranges if last + 1 < end]
    borders.sort()
    starts = [(0, memberships.NONE)]
    node = memberships.NONE
    for address, _, member in borders:
        node = memberships.toggle(node, member)
        if starts[-1][0] == address:
            starts.pop()
        if not starts or starts[-1][1] != node:
            starts.append((address, node))
    return starts


def layers(
    sets: tuple[int, ...], weights: Mapping[int, int], cut: Callable[[tuple[int, ...]], Partition]
) -> list[tuple[int, ...]]:
    """The sets in one layer, or in several that are each asked for an address, where nested sets would make too many cells.

    `weights`: cells of the row of each set. A class has the cells of every set around it, so that a wide set's stand in the rows of all that it
    contains. The sets that are part of the fewest classes, up to LAYER_CELLS cells, are a layer; the wider ones, cut without
    them, have far fewer classes."""
    found: list[tuple[int, ...]] = []
    while len(found) + 1 < MOST_LAYERS:
        uses = Counter(s for members in cut(sets).members for s in members)
        narrowest = sorted(sets, key=lambda s: (uses[s], weights[s], s))
        cells = list(accumulate(uses[s] * weights[s] for s in narrowest))
        if cells[-1] <= LAYER_CELLS:
            break
        taken = max(bisect_right(cells, LAYER_CELLS), 1)
        found.append(tuple(sorted(narrowest[:taken])))
        sets = tuple(sorted(narrowest[taken:]))
        if not sets:
            return found
    return [*found, sets]


def _run(module: Module) -> Module:
    partitions = Numbering[tuple[int, ...]]()
    known: dict[int, tuple[int, ...]] = {}
    groups: list[FlatGroup] = []
    budget = CellBudget("address classes")

    @cache
    def cut(sets: tuple[int, ...]) -> Partition:
        return partition(sets, module.address_sets, budget)

    for group in module.groups:
        if id(group.matches) not in known:
            weights = _weights(module, group)
            layered = layers(tuple(sorted(weights)), weights, cut) if weights else []
            known[id(group.matches)] = tuple(partitions(sets) for sets in layered)
        groups.append(replace(group, partitions=known[id(group.matches)]))
    return replace(module, groups=tuple(groups), partitions=tuple(cut(sets) for sets in partitions.indices))


def _weights(module: Module, group: FlatGroup) -> Counter[int]:
    """For each address set of the group's peers the cells of its row, about: two an interval of keys."""
    weights: Counter[int] = Counter()
    for _, index, services in group.matches:
        peer = module.peers[index]
        if isinstance(peer, CidrPeer):
            weights[peer.addresses] += 2 * len(module.services[services])
    return weights


PARTITION_CIDRS = Pass("partition-cidrs", Module, Module, _run)
