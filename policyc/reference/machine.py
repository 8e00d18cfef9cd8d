"""A machine that judges packets with state: the model beside which the compiled programs are tested (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from policyc.model import ICMP, ICMPV6, Direction
from policyc.reference.connections import (
    IDLE_FRAGMENT,
    TICK,
    Connection,
    FirstFragment,
    FragmentKey,
    SubjectKey,
    Tuple,
)
from policyc.reference.packet import (
    EXTENSION_HEADERS,
    NOT_IP,
    FragmentKind,
    IpHead,
    Malformed,
    Packet,
    Parsed,
    Quote,
    parse,
)
from policyc.reference.verdict import Judgement, Traffic, judge, judge_prospectively
from policyc.reference.world import HOST, Address, AddressClass, Subject, World, subject_name

DHCP_SERVER, DHCPV6_SERVER, UDP = 67, 547, 17
LINK_LOCAL = range(0xFE80 << 112, 0xFEC0 << 112)
LOOPBACK_IFINDEX = 1


class State(Enum):
    NOT_READY = 0
    DORMANT = 1
    ACTIVE = 2


class Hook(Enum):
    """Where a program runs, with the direction that the device or cgroup has there."""

    TC_INGRESS = "tc ingress"
    TC_EGRESS = "tc egress"
    CGROUP_INGRESS = "cgroup ingress"
    CGROUP_EGRESS = "cgroup egress"
    XDP_INGRESS = "xdp ingress"

    @property
    def is_cgroup(self) -> bool:
        return self in (Hook.CGROUP_INGRESS, Hook.CGROUP_EGRESS)

    @property
    def direction(self) -> Direction:
        return Direction.EGRESS if self in (Hook.TC_EGRESS, Hook.CGROUP_EGRESS) else Direction.INGRESS


@dataclass(frozen=True)
class Workload:
    """The host's end of a workload's link. `endpoint` is a name; None, or one not registered: nobody yet."""

    endpoint: str | None


@dataclass(frozen=True)
class Uplink:
    """A device of this machine, or one inside a workload's own namespace."""


@dataclass(frozen=True)
class Cgroup:
    """A workload's cgroup. `streams_only`: its endpoint is judged at its interface. `own_netns`: it has a network namespace of its own."""

    endpoint: str | None
    streams_only: bool = False
    own_netns: bool = False


@dataclass
class Noted:
    """What a packet's events and counters depend on besides its judgement: how it was read, if it was; whose it is, if that is known;
    whether rules were asked about it (not about its connection or its first fragment); whether it entered a connection."""

    packet: Parsed | None = None
    subject: SubjectKey | None = None
    judged: bool = False
    opened: bool = False


@dataclass(frozen=True)
class _Flow:
    """A packet as its subject sees it."""

    subject: Subject
    direction: Direction
    local: Address
    remote: Address

    @property
    def key(self) -> SubjectKey:
        return _subject_key(self.subject)


def _subject_key(subject: Subject) -> SubjectKey:
    return subject_name(subject), subject is HOST


NOT_JUDGED = Judgement("allow", "none")
NO_SUBJECT = Judgement("allow", "no-subject")
NO_POLICY = Judgement("allow", "no-policy")
NOT_READY = Judgement("deny", "not-ready")
UNREGISTERED = Judgement("deny", "unregistered")
SPOOFED = Judgement("deny", "spoofed-source")
MALFORMED = Judgement("deny", "malformed")


class Machine:
    """One load. `points` by interface index, `cgroups` by cgroup id. With `audit` the whole load only reports.

    Change `world` by `update`, `points`, `cgroups` and `state` by assignment. `noted` is about the last packet."""

    def __init__(
        self,
        world: World,
        points: Mapping[int, Workload | Uplink] | None = None,
        cgroups: Mapping[int, Cgroup] | None = None,
        *,
        audit: bool = False,
        state: State = State.ACTIVE,
    ) -> None:
        self.world = world
        self.points, self.cgroups = dict(points or {}), dict(cgroups or {})
        self.audit, self.state = audit, state
        self.generation = 1
        self.noted = Noted()
        self.connections: dict[Tuple, Connection] = {}
        self.fragments: dict[FragmentKey, FirstFragment] = {}

    def update(self, world: World) -> None:
        """Policy, endpoints or labels changed: what is known is judged again."""
        self.world = world
        self.generation += 1

    def packet(
        self,
        hook: Hook,
        frame: bytes,
        now: int = 0,
        *,
        ifindex: int = 0,
        cgroups: Sequence[int] = (),
        ethertype: int | None = None,
        tagged: bool = False,
    ) -> Judgement:
        """Judge a packet at `now` (ns). `cgroups`: ids from the socket's own cgroup to the root. `ethertype` and `tagged`: see packet.parse.

        What is not judged has the reason `none`."""
        self.noted = Noted()
        if self.state is State.NOT_READY:
            return NOT_READY
        if self.state is State.DORMANT:
            return NOT_JUDGED
        if hook.is_cgroup:
            return self._at_cgroup(hook, frame, now, ifindex, cgroups, ethertype)
        point = self.points.get(ifindex)
        if point is None:
            return NOT_READY
        if isinstance(point, Workload):
            return self._at_workload(hook, frame, tagged, now, point)
        return self._at_uplink(hook, self._read(frame, tagged=tagged), now)

    def _read(self, frame: bytes, *, ethertype: int | None = None, tagged: bool = False) -> Parsed:
        self.noted.packet = packet = parse(frame, ethertype=ethertype, tagged=tagged)
        return packet

    # --- attach points ---

    def _at_cgroup(
        self, hook: Hook, frame: bytes, now: int, ifindex: int, cgroups: Sequence[int], ethertype: int | None
    ) -> Judgement:
        nearest = next((self.cgroups[i] for i in cgroups if i in self.cgroups), None)
        if nearest is not None and nearest.streams_only:
            return NOT_JUDGED
        endpoint = self._endpoint(nearest.endpoint if nearest is not None else None)
        if nearest is None or endpoint is None:
            return self._without_policy(UNREGISTERED)
        packet = self._read(frame, ethertype=_ethertype(frame) if ethertype is None else ethertype)
        if _is_no_flow(packet) or (nearest.own_netns and ifindex == LOOPBACK_IFINDEX):
            return NOT_JUDGED
        return self._of_bound(packet, endpoint, hook.direction, now)

    def _at_workload(self, hook: Hook, frame: bytes, tagged: bool, now: int, point: Workload) -> Judgement:
        """What arrives at the host's end is what the workload sends."""
        endpoint = self._endpoint(point.endpoint)
        if endpoint is None:
            return self._without_policy(UNREGISTERED)
        packet = self._read(frame, tagged=tagged)
        if _is_no_flow(packet):
            return NOT_JUDGED
        direction = Direction.EGRESS if hook.direction is Direction.INGRESS else Direction.INGRESS
        return self._of_bound(packet, endpoint, direction, now)

    def _of_bound(self, packet: Parsed, subject: Subject, direction: Direction, now: int) -> Judgement:
        self.noted.subject = _subject_key(subject)
        head = _head(packet)
        if head is None:
            return self._malformed(subject, direction)
        local, remote = _ends(head, direction)
        if direction is Direction.EGRESS and not self._owns(subject, local) and not _configures_address(packet):
            return self._without_policy(SPOOFED)
        return self._judge(packet, _Flow(subject, direction, local, remote), now)

    def _at_uplink(self, hook: Hook, packet: Parsed, now: int) -> Judgement:
        if _is_no_flow(packet):
            return NOT_JUDGED
        head = _head(packet)
        if head is None:
            return self._without_policy(MALFORMED)
        local, remote = _ends(head, hook.direction)
        if hook.direction is Direction.INGRESS and self._is_bound(self.world.subject(remote)):
            return self._without_policy(SPOOFED)
        subject = self.world.subject(local)
        if subject is None or self._is_bound(subject):
            return NO_SUBJECT
        return self._judge(packet, _Flow(subject, hook.direction, local, remote), now)

    def _endpoint(self, name: str | None) -> Subject | None:
        return None if name is None else self.world.endpoints.get(name)

    def _is_bound(self, subject: Subject | None) -> bool:
        if subject is None or subject is HOST:
            return False
        workloads = [p.endpoint for p in self.points.values() if isinstance(p, Workload)]
        return subject.name in workloads or subject.name in [c.endpoint for c in self.cgroups.values()]

    def _owns(self, subject: Subject, address: Address) -> bool:
        """An endpoint without addresses owns those of class host."""
        if subject is HOST or not subject.addresses:
            return self.world.class_of(address) is AddressClass.HOST
        return address in subject.addresses

    def _without_policy(self, denial: Judgement) -> Judgement:
        """A denial that no rule causes; a load that only reports reports it."""
        return replace(NO_POLICY, prospective=denial) if self.audit else denial

    # --- judging ---

    def _judge(self, packet: Parsed, flow: _Flow, now: int) -> Judgement:
        tick = now // TICK
        self.noted.subject = flow.key
        if isinstance(packet, Packet) and packet.head.kind is FragmentKind.LATER:
            return self._later_fragment(packet, flow, tick)
        judgement = (
            self._whole(packet, flow, tick)
            if isinstance(packet, Packet)
            else self._malformed(flow.subject, flow.direction)
        )
        head = _head(packet)
        if head is not None and head.kind is FragmentKind.FIRST:
            self.fragments[_fragment_key(head, flow)] = FirstFragment(self.generation, judgement, tick)
        return judgement

    def _whole(self, packet: Packet, flow: _Flow, tick: int) -> Judgement:
        related = self._related(packet, flow, tick)
        if related is not None:
            return related
        established = self._established(packet, flow, tick)
        if established is not None:
            return established
        self.noted.judged = True
        judgement = self._fresh(flow.subject, flow.direction, flow.remote, packet.traffic)
        if judgement.verdict == "allow" and _makes_connection(packet):
            connection = Connection(flow.direction, packet.traffic, self.generation, judgement.rule, tick)
            connection.note(packet, flow.direction, tick)
            self.connections[_tuple(packet, flow)] = connection
            self.noted.opened = True
        return judgement

    def _fresh(self, subject: Subject, direction: Direction, remote: Address, traffic: Traffic) -> Judgement:
        if not self.audit:
            return judge(self.world, subject, direction, remote, traffic)
        full = judge_prospectively(self.world, subject, direction, remote, traffic)
        return replace(NO_POLICY, prospective=full if full.verdict == "deny" else None)

    def _malformed(self, subject: Subject, direction: Direction) -> Judgement:
        """Denied for a subject that some policy selects."""
        self.noted.judged = True
        selects = [self.world.book(subject, direction, audited=audited).selected for audited in (False, True)]
        enforced, prospective = (MALFORMED if selected else NO_POLICY for selected in selects)
        if self.audit:
            enforced = NO_POLICY
        if enforced.verdict == prospective.verdict:
            return enforced
        return replace(enforced, prospective=prospective)

    # --- connections ---

    def _established(self, packet: Packet, flow: _Flow, tick: int) -> Judgement | None:
        connection = self._live(_tuple(packet, flow), tick)
        if connection is None or packet.opens or not _belongs(packet, flow, connection):
            return None
        self._judge_again(connection, flow.subject, flow.remote)
        if connection.denial is not None:
            return connection.denial
        connection.note(packet, flow.direction, tick)
        return Judgement("allow", "established", connection.rule)

    def _related(self, packet: Packet, flow: _Flow, tick: int) -> Judgement | None:
        """An ICMP error that quotes a packet of a known connection and goes to who sent that."""
        quote = packet.quote
        if quote is None or quote.source != packet.head.destination:
            return None
        known = _quoted_tuple(quote, flow)
        connection = self._live(known, tick)
        if connection is None:
            return None
        self._judge_again(connection, flow.subject, known.remote)
        return connection.denial or Judgement("allow", "related", connection.rule)

    def _live(self, known: Tuple, tick: int) -> Connection | None:
        connection = self.connections.get(known)
        return connection if connection is not None and connection.is_live(tick) else None

    def _judge_again(self, connection: Connection, subject: Subject, remote: Address) -> None:
        """After a change, in the direction of the first packet."""
        if connection.generation == self.generation:
            return
        judgement = self._fresh(subject, connection.direction, remote, connection.traffic)
        connection.generation, connection.rule = self.generation, judgement.rule
        connection.denial = judgement if judgement.verdict == "deny" else None

    # --- fragments ---

    def _later_fragment(self, packet: Packet, flow: _Flow, tick: int) -> Judgement:
        first = self.fragments.get(_fragment_key(packet.head, flow))
        if first is not None and first.generation == self.generation and tick - first.seen <= IDLE_FRAGMENT:
            return replace(first.judgement, prospective=None, log=False)  # told with the first
        if packet.head.version == 6 and packet.head.protocol in EXTENSION_HEADERS:
            return self._malformed(flow.subject, flow.direction)
        self.noted.judged = True
        return self._fresh(flow.subject, flow.direction, flow.remote, packet.traffic)


def _is_no_flow(packet: Parsed) -> bool:
    return packet is NOT_IP or (isinstance(packet, Packet) and packet.is_no_flow)


def _head(packet: Parsed) -> IpHead | None:
    return packet.head if isinstance(packet, Packet | Malformed) else None


def _ethertype(frame: bytes) -> int:
    return 0x86DD if frame[:1] and frame[0] >> 4 == 6 else 0x0800


def _ends(head: IpHead, direction: Direction) -> tuple[Address, Address]:
    """Local and remote address."""
    if direction is Direction.EGRESS:
        return head.source, head.destination
    return head.destination, head.source


def _configures_address(packet: Parsed) -> bool:
    """DHCP from no address, DHCPv6 also from a link-local one."""
    if not isinstance(packet, Packet) or packet.head.protocol != UDP:
        return False
    family, source = packet.head.source
    if family == "4":
        return source == 0 and packet.destination_port == DHCP_SERVER
    return (source == 0 or source in LINK_LOCAL) and packet.destination_port == DHCPV6_SERVER


def _tuple(packet: Packet, flow: _Flow) -> Tuple:
    ports = packet.source_port, packet.destination_port
    local, remote = ports if flow.direction is Direction.EGRESS else ports[::-1]
    return Tuple(flow.key, flow.local, flow.remote, local, remote, packet.head.protocol)


def _quoted_tuple(quote: Quote, flow: _Flow) -> Tuple:
    """An error that arrives quotes what the subject sent, one that leaves what it received."""
    source, destination = (quote.source, quote.source_port), (quote.destination, quote.destination_port)
    local, remote = (source, destination) if flow.direction is Direction.INGRESS else (destination, source)
    return Tuple(flow.key, local[0], remote[0], local[1], remote[1], quote.protocol)


def _fragment_key(head: IpHead, flow: _Flow) -> FragmentKey:
    protocol = head.protocol if head.version == 4 else 0
    return FragmentKey(flow.key, flow.direction, head.source, head.destination, head.fragment_id, protocol)


def _makes_connection(packet: Packet) -> bool:
    return packet.head.protocol not in (ICMP, ICMPV6) or packet.is_echo_request


def _belongs(packet: Packet, flow: _Flow, connection: Connection) -> bool:
    """Of an echo, requests go the way of the first packet and replies the other. Between equal ends nothing tells
    a reply from the packet itself, arriving: both ways are judged."""
    same = flow.direction is connection.direction
    if packet.head.protocol in (ICMP, ICMPV6):
        return packet.is_echo_request if same else packet.is_echo_reply
    return same or flow.local != flow.remote or packet.source_port != packet.destination_port
