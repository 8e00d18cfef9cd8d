"""The high-level IR: ranked rules, and for each group of subjects what they match.

Conventions
-----------
- Everything is immutable and refers to other things by index into the module's tuples, which are numbered in the order
  of first use in source order. Ranks, levels, keys and groups are those of `policyc.ir.tables`.
- A *service set* is a tuple of inclusive key intervals (first, last); as lowered in source order, after `merge-services`
  sorted, disjoint and not adjacent.
- A *match* is one rule, one peer, one service set: a rule with three peers has three matches. A group's matches ascend
  by rank, then peer.
- As lowered there is one group a policy, direction and subject; after `group-by-subject` one a direction, tier and subject.
- A *partition* cuts the addresses of both families into classes by the address sets that contain them; class 0 is in
  none. `partition-cidrs` makes them and gives each group that has CIDR peers its own or a shared one.
- The ranks of `rules` never change: passes drop matches, never rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from policyc.ir.tables import GroupSubject, Isolation, RankedRule, SelectedBy
from policyc.model import AddressSet, Direction, PeerClass, Selector, Span, Tier

ServiceSet = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ClassPeer:
    """A peer of a class of addresses. ENDPOINTS also stands for the empty selector, ANY for all addresses."""

    peer_class: PeerClass


@dataclass(frozen=True, slots=True)
class SelectorPeer:
    """An endpoint that `selectors[selector]` selects."""

    selector: int


@dataclass(frozen=True, slots=True)
class SamePeer:
    """An endpoint that has the subject's values of all these keys: ascending indices into `same_keys`."""

    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CidrPeer:
    """An address in `address_sets[addresses]`; with `world_only` only where it is of class world."""

    addresses: int
    world_only: bool


FlatPeer = ClassPeer | SelectorPeer | SamePeer | CidrPeer


class Match(NamedTuple):
    """Rule `rank` matches peer `peers[peer]` with a key of `services[services]`."""

    rank: int
    peer: int
    services: int


@dataclass(frozen=True, slots=True)
class Partition:
    """Address classes of the sets `sets` (ascending). `v4`, `v6`: sorted (start, class), neighbours differ, first start 0.
    `members`: for each class the ascending indices of the sets that contain it; class 0 has none."""

    sets: tuple[int, ...]
    v4: tuple[tuple[int, int], ...]
    v6: tuple[tuple[int, int], ...]
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class FlatGroup:
    """What is judged for one subject in one direction and tier. `partitions` is empty until `partition-cidrs` and where
    no peer is a CIDR set; each set of the group is in one of them. `span`: the place that isolates, else the policy."""

    direction: Direction
    tier: Tier
    subject: GroupSubject
    isolation: Isolation
    matches: tuple[Match, ...]
    partitions: tuple[int, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Module:
    selectors: tuple[Selector, ...]
    same_keys: tuple[str, ...]
    address_sets: tuple[AddressSet, ...]
    services: tuple[ServiceSet, ...]
    peers: tuple[FlatPeer, ...]
    rules: tuple[RankedRule, ...]
    partitions: tuple[Partition, ...]
    groups: tuple[FlatGroup, ...]
    selected: tuple[SelectedBy, ...]
    has_audit: bool
