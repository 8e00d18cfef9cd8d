"""partition-cidrs: the addresses of both families cut into classes by the CIDR sets that contain them.

Groups that use the same sets share a partition. One sweep over the sorted range borders of n ranges is O(n log n): the
membership after a border is found from the one before it and the set that begins or ends, so that memberships are built
once each however often they come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policyc.ir.flat import CidrPeer, FlatGroup, Module, Partition
from policyc.ir.numbering import Numbering
from policyc.ir.passes.base import Pass
from policyc.ir.passes.limits import CellBudget
from policyc.model import AddressSet

BEGINS, ENDS = 1, 0
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


def _run(module: Module) -> Module:
    partitions = Numbering[tuple[int, ...]]()
    known: dict[int, tuple[int, ...]] = {}
    groups: list[FlatGroup] = []
    for group in module.groups:
        if id(group.matches) not in known:
            sets = _sets_of(module, group)
            known[id(group.matches)] = (partitions(sets),) if sets else ()
        groups.append(replace(group, partitions=known[id(group.matches)]))
    budget = CellBudget("address classes")
    made = tuple(partition(sets, module.address_sets, budget) for sets in partitions.indices)
    return replace(module, groups=tuple(groups), partitions=made)


def _sets_of(module: Module, group: FlatGroup) -> tuple[int, ...]:
    peers = [module.peers[index] for index in {match.peer for match in group.matches}]
    return tuple(sorted({peer.addresses for peer in peers if isinstance(peer, CidrPeer)}))


PARTITION_CIDRS = Pass("partition-cidrs", Module, Module, _run)
