"""Text form of the flat IR. `docs/ir.md` shows it by example; what it prints parses back to an equal module."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from policyc.ir.flat import (
    CidrPeer,
    ClassPeer,
    FlatGroup,
    FlatPeer,
    Match,
    Module,
    Partition,
    SamePeer,
    SelectorPeer,
    ServiceSet,
)
from policyc.ir.tables import RankedRule, SelectedBy
from policyc.ir.text_lines import (
    Line,
    parse_address,
    parse_isolation,
    parse_key,
    parse_rule,
    parse_selected,
    parse_selector,
    parse_span,
    parse_subject,
    print_address,
    print_isolation,
    print_key,
    print_rule,
    print_selected,
    print_selector,
    print_span,
    print_starts,
    print_subject,
    quoted,
)
from policyc.model import AddressSet, Direction, PeerClass, Selector, Tier

HEADER = "flat"


def print_flat(module: Module) -> Iterator[str]:
    """The module's lines."""
    yield HEADER
    for index, selector in enumerate(module.selectors):
        yield f"selector {index} {print_selector(selector)}"
    for index, key in enumerate(module.same_keys):
        yield f"same-key {index} {quoted(key)}"
    for index, addresses in enumerate(module.address_sets):
        yield f"addresses {index}"
        yield from _print_ranges(addresses)
    for index, intervals in enumerate(module.services):
        yield f"services {index} {' '.join(f'{print_key(a)}..{print_key(b)}' for a, b in intervals)}"
    for index, peer in enumerate(module.peers):
        yield f"peer {index} {_print_peer(peer)}"
    for rank, rule in enumerate(module.rules):
        yield print_rule(rank, rule)
    for index, partition in enumerate(module.partitions):
        yield from _print_partition(index, partition)
    for index, group in enumerate(module.groups):
        yield from _print_group(index, group)
    for entry in module.selected:
        yield print_selected(entry)
    if module.has_audit:
        yield "has-audit"


def _print_ranges(addresses: AddressSet) -> Iterator[str]:
    for family, ranges in ((4, addresses.v4), (6, addresses.v6)):
        for first, last in ranges:
            yield f"  range{family} {print_address(family, first)} {print_address(family, last)}"


def _print_peer(peer: FlatPeer) -> str:
    if isinstance(peer, ClassPeer):
        return peer.peer_class.value
    if isinstance(peer, SelectorPeer):
        return f"selector {peer.selector}"
    if isinstance(peer, SamePeer):
        return " ".join(["same", *map(str, peer.keys)])
    return f"{'world-' * peer.world_only}addresses {peer.addresses}"


def _print_partition(index: int, partition: Partition) -> Iterator[str]:
    yield " ".join([f"partition {index}", *map(str, partition.sets)])
    for number, members in enumerate(partition.members):
        yield " ".join([f"  class {number}", *map(str, members)])
    yield from print_starts(4, partition.v4)
    yield from print_starts(6, partition.v6)


def _print_group(index: int, group: FlatGroup) -> Iterator[str]:
    partition = "".join([" partition" * bool(group.partitions), *(f" {number}" for number in group.partitions)])
    yield (
        f"group {index} {group.direction.word} {group.tier.word} {print_subject(group.subject)} "
        f"{print_isolation(group.isolation)}{partition} {print_span(group.span)}"
    )
    for rank, peer, services in group.matches:
        yield f"  match {rank} peer {peer} services {services}"


class FlatParser:
    """Takes the lines after the header one by one; `module` is what they say."""

    def __init__(self) -> None:
        self.selectors: list[Selector] = []
        self.same_keys: list[str] = []
        self.ranges: list[dict[int, list[tuple[int, int]]]] = []
        self.services: list[ServiceSet] = []
        self.peers: list[FlatPeer] = []
        self.rules: list[RankedRule] = []
        self.partitions: list[_PartitionLines] = []
        self.groups: list[tuple[FlatGroup, list[Match]]] = []
        self.selected: list[SelectedBy] = []
        self.has_audit = False
        self._kinds: dict[str, Callable[[Line], None]] = {
            "selector": self._selector,
            "same-key": self._same_key,
            "addresses": self._addresses,
            "range4": lambda line: self._range(4, line),
            "range6": lambda line: self._range(6, line),
            "services": self._services,
            "peer": self._peer,
            "rule": self._rule,
            "partition": self._partition,
            "class": self._class,
            "v4": lambda line: self._start(4, line),
            "v6": lambda line: self._start(6, line),
            "group": self._group,
            "match": self._match,
            "selected": lambda line: self.selected.append(parse_selected(line)),
            "has-audit": self._has_audit,
        }

    def line(self, line: Line) -> None:
        kind = line.word()
        if kind not in self._kinds:
            line.fail(f"{kind!r} begins no line of the flat IR")
        self._kinds[kind](line)
        line.end()

    @property
    def module(self) -> Module:
        return Module(
            selectors=tuple(self.selectors),
            same_keys=tuple(self.same_keys),
            address_sets=tuple(AddressSet(tuple(r[4]), tuple(r[6])) for r in self.ranges),
            services=tuple(self.services),
            peers=tuple(self.peers),
            rules=tuple(self.rules),
            partitions=tuple(p.finished() for p in self.partitions),
            groups=tuple(_with_matches(group, matches) for group, matches in self.groups),
            selected=tuple(self.selected),
            has_audit=self.has_audit,
        )

    def _selector(self, line: Line) -> None:
        line.index(len(self.selectors))
        self.selectors.append(parse_selector(line))

    def _same_key(self, line: Line) -> None:
        line.index(len(self.same_keys))
        self.same_keys.append(line.string())

    def _addresses(self, line: Line) -> None:
        line.index(len(self.ranges))
        self.ranges.append({4: [], 6: []})

    def _range(self, family: int, line: Line) -> None:
        if not self.ranges:
            line.fail("a range stands in no address set")
        self.ranges[-1][family].append((parse_address(family, line), parse_address(family, line)))

    def _services(self, line: Line) -> None:
        line.index(len(self.services))
        intervals = []
        while line.peek() is not None:
            first, _, last = line.word().partition("..")
            intervals.append((parse_key(first, line), parse_key(last, line)))
        self.services.append(tuple(intervals))

    def _peer(self, line: Line) -> None:
        line.index(len(self.peers))
        word = line.word()
        if word == "selector":
            self.peers.append(SelectorPeer(line.integer()))
        elif word == "same":
            self.peers.append(SamePeer(line.integers()))
        elif word in ("addresses", "world-addresses"):
            self.peers.append(CidrPeer(line.integer(), word != "addresses"))
        elif word in {c.value for c in PeerClass}:
            self.peers.append(ClassPeer(PeerClass(word)))
        else:
            line.fail(f"{word!r} is no peer")

    def _rule(self, line: Line) -> None:
        line.index(len(self.rules))
        self.rules.append(parse_rule(line))

    def _partition(self, line: Line) -> None:
        line.index(len(self.partitions))
        self.partitions.append(_PartitionLines(line.integers()))

    def _class(self, line: Line) -> None:
        partition = self._last_partition(line)
        line.index(len(partition.members))
        partition.members.append(line.integers())

    def _start(self, family: int, line: Line) -> None:
        self._last_partition(line).starts[family].append((parse_address(family, line), line.integer()))

    def _last_partition(self, line: Line) -> _PartitionLines:
        if not self.partitions:
            line.fail("stands in no partition")
        return self.partitions[-1]

    def _group(self, line: Line) -> None:
        line.index(len(self.groups))
        direction, tier = line.named(Direction), line.named(Tier)
        subject, isolation = parse_subject(line), parse_isolation(line)
        partitions = line.integers() if line.take("partition") else ()
        group = FlatGroup(direction, tier, subject, isolation, (), partitions, parse_span(line))
        self.groups.append((group, []))

    def _match(self, line: Line) -> None:
        if not self.groups:
            line.fail("a match stands in no group")
        rank = line.integer()
        line.expect("peer")
        peer = line.integer()
        line.expect("services")
        self.groups[-1][1].append(Match(rank, peer, line.integer()))

    def _has_audit(self, line: Line) -> None:
        self.has_audit = True


class _PartitionLines:
    def __init__(self, sets: tuple[int, ...]) -> None:
        self.sets = sets
        self.members: list[tuple[int, ...]] = []
        self.starts: dict[int, list[tuple[int, int]]] = {4: [], 6: []}

    def finished(self) -> Partition:
        return Partition(self.sets, tuple(self.starts[4]), tuple(self.starts[6]), tuple(self.members))


def _with_matches(group: FlatGroup, matches: list[Match]) -> FlatGroup:
    return FlatGroup(
        group.direction, group.tier, group.subject, group.isolation, tuple(matches), group.partitions, group.span
    )
