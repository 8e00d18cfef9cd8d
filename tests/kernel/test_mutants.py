"""The suite itself: wrong compilers and wrong machines, each of which the differential cases must tell from the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

import pytest
from packets_differential import Load, Loads, Place, compile_text, play
from scenario import Case, Ground, checked, draw, ground
from structures import compiled

from policyc.artifact.reader import Artifact
from policyc.codegen import direct, near, recent, state
from policyc.codegen.function import I32, I64
from policyc.codegen.records import CT_CHECKED
from policyc.model import (
    Action,
    AddressSet,
    Op,
    Peer,
    PeerCidrs,
    PeerClass,
    PeerSame,
    PeerSelector,
    Policy,
    PolicySet,
    Requirement,
    Selector,
    Service,
    Tier,
)
from policyc.reference import connections, machine, packet, verdict, world
from tests.wrong_compilers import rules

pytestmark = pytest.mark.bpf

SEEDS, CASES, PACKETS = range(5000, 5030), 3, 850


@cache
def _ground(seed: int) -> Ground:
    on = ground(seed)
    return replace(on, structure="chosen")


@cache
def _case(seed: int, part: int) -> Case:
    return draw(_ground(seed), seed, part, PACKETS)


# --- wrong compilers: the right one, of another policy ----------------------------------------------------------------


def services(change: Callable[[Service], Service]) -> Callable[[PolicySet], PolicySet]:
    return rules(lambda r: replace(r, services=tuple(change(s) for s in r.services)))


def peers(change: Callable[[Peer], Peer]) -> Callable[[PolicySet], PolicySet]:
    return rules(lambda r: replace(r, peers=tuple(change(p) for p in r.peers)))


def cidrs(change: Callable[[AddressSet], AddressSet]) -> Callable[[PolicySet], PolicySet]:
    return peers(lambda p: replace(p, addresses=change(p.addresses)) if isinstance(p, PeerCidrs) else p)


def policies(change: Callable[[Policy], Policy]) -> Callable[[PolicySet], PolicySet]:
    return lambda policy: replace(policy, policies=tuple(change(p) for p in policy.policies))


def _ports(low: int, high: int) -> Callable[[Service], Service]:
    def moved(s: Service) -> Service:
        if s.ports is None or s.ports[0] + low > s.ports[1] + high:
            return s
        return replace(s, ports=(s.ports[0] + low, s.ports[1] + high))

    return moved


def _swapped_bytes(s: Service) -> Service:
    if s.ports is None:
        return s
    low, high = sorted(int.from_bytes(n.to_bytes(2), "little") for n in s.ports)
    return replace(s, ports=(max(low, 1), high))


def _without_holes(addresses: AddressSet) -> AddressSet:
    def filled(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        return ((ranges[0][0], ranges[-1][1]),) if ranges else ()

    return AddressSet(filled(addresses.v4), filled(addresses.v6))


def _shorter(addresses: AddressSet) -> AddressSet:
    def cut(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        return tuple((low, high - 1) for low, high in ranges if low < high)

    return AddressSet(cut(addresses.v4), cut(addresses.v6))


def _needs_the_key(p: Peer) -> Peer:
    """`!=` as if it wanted the label to be there."""
    if not isinstance(p, PeerSelector):
        return p
    keys = {r.key for r in p.selector.requirements if r.op in (Op.NE, Op.NOT_IN)}
    needed = tuple(Requirement(key, Op.EXISTS) for key in sorted(keys))
    return replace(p, selector=Selector((*p.selector.requirements, *needed)))


def _other_tier(p: Policy) -> Policy:
    tier = {Tier.ADMIN: Tier.BASELINE, Tier.BASELINE: Tier.ADMIN}.get(p.tier, p.tier)
    return replace(p, tier=tier, rules=tuple(replace(r, tier=tier) for r in p.rules))


COMPILERS: dict[str, Callable[[PolicySet], PolicySet]] = {
    "forgets the last port of a range": services(_ports(0, -1)),
    "forgets the first port of a range": services(_ports(1, 0)),
    "takes ports in the other byte order": services(_swapped_bytes),
    "ignores codes of icmp": services(lambda s: replace(s, icmp_code=None)),
    "takes a protocol number for any": services(lambda s: replace(s, protocol=None) if s == Service(s.protocol) else s),
    "loses exceptions": cidrs(_without_holes),
    "forgets the last address of a prefix": cidrs(_shorter),
    "loses IPv6 prefixes": cidrs(lambda a: replace(a, v6=())),
    "loses IPv4 prefixes": cidrs(lambda a: replace(a, v4=())),
    "takes world(…) for its addresses": peers(
        lambda p: replace(p, world_only=False) if isinstance(p, PeerCidrs) else p
    ),
    "takes addresses for world(…)": peers(lambda p: replace(p, world_only=True) if isinstance(p, PeerCidrs) else p),
    "takes the host for the world": peers(lambda p: PeerClass.WORLD if p is PeerClass.HOST else p),
    "looks at one key of same(…)": peers(lambda p: replace(p, keys=p.keys[:1]) if isinstance(p, PeerSame) else p),
    "wants the label of !=": peers(_needs_the_key),
    "puts allow before deny": rules(lambda r: replace(r, priority=2 * r.priority + (r.action is Action.DENY))),
    "puts pass before allow": rules(lambda r: replace(r, priority=2 * r.priority + (r.action is Action.ALLOW))),
    "takes pass for allow": rules(lambda r: replace(r, action=Action.ALLOW) if r.action is Action.PASS else r),
    "ignores priorities": rules(lambda r: replace(r, priority=100)),
    "asks tiers in another order": policies(_other_tier),
    "takes the last of equal rules": rules(lambda r: replace(r, order=10_000 - r.order)),
    "enforces what is audited": lambda p: rules(lambda r: replace(r, audit=False))(
        policies(lambda one: replace(one, audit=False))(p)
    ),
    "forgets audited rules": policies(lambda p: replace(p, rules=tuple(r for r in p.rules if not r.audit))),
    "forgets defaults": policies(lambda p: replace(p, isolation={})),
    "forgets to log": rules(lambda r: replace(r, log=False)),
    "forgets all subjects but the first": policies(lambda p: replace(p, subjects=p.subjects[:1])),
}


def _wrong(change: Callable[[PolicySet], PolicySet]) -> Callable[[str, str], Artifact]:
    return lambda text, structure: compiled(change(checked(text)), structure)


@pytest.mark.parametrize("name", COMPILERS)
def test_a_wrong_compiler_is_caught(name: str, place: Place) -> None:
    change = COMPILERS[name]
    for seed in SEEDS:
        on = _ground(seed)
        if all(change(checked(text)) == checked(text) for text in on.policies):
            continue
        with Loads(on.policies, on.structure, _wrong(change)) as loads:
            if any(play(_case(seed, part), place, loads).differences for part in range(CASES)):
                return
    pytest.fail(f"nothing differs with a compiler that {name}")


# --- wrong machines ---------------------------------------------------------------------------------------------------


def wrong(owner: Any, name: str, value: Any) -> Callable[[], Any]:
    return lambda: mock.patch.object(owner, name, value)


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _of_both_ends(known: connections.Tuple) -> connections.Tuple:
    """The same for both ends of a connection on this host."""
    ends = sorted(((known.local, known.local_port), (known.remote, known.remote_port)))
    (local, local_port), (remote, remote_port) = ends
    return connections.Tuple(("", False), local, remote, local_port, remote_port, known.protocol)


_TUPLE = machine._tuple

MACHINES: dict[str, Callable[[], Any]] = {
    "lets connections live for ever": wrong(connections.Connection, "is_live", _always(True)),
    "forgets connections at once": wrong(connections.Connection, "is_live", _always(False)),
    "lets one end of a connection answer for the other": wrong(
        machine, "_tuple", lambda *of: _of_both_ends(_TUPLE(*of))
    ),
    "takes a SYN on a known tuple for its connection": wrong(packet.Packet, "opens", False),
    "never judges connections again": wrong(machine.Machine, "_judge_again", _always(None)),
    "does not see FIN and RST": wrong(connections.Connection, "_idle_limit", _always(connections.IDLE_TCP)),
    "takes echo requests for replies": wrong(machine, "_belongs", _always(True)),
    "relates no errors": wrong(machine.Machine, "_related", _always(None)),
    "lets everybody use any source": wrong(machine.Machine, "_owns", _always(True)),
    "judges bound endpoints at uplinks": wrong(machine.Machine, "_is_bound", _always(False)),
    "lets no address be configured": wrong(machine, "_configures_address", _always(False)),
    "follows no first fragment": wrong(machine, "IDLE_FRAGMENT", -1),
    "keeps first fragments for ever": wrong(machine, "IDLE_FRAGMENT", 1 << 40),
    "ignores that fragments lack ports": wrong(verdict._Case, "names_port", _always(False)),
    "reads nine extension headers": wrong(packet, "MAX_EXTENSION_HEADERS", 9),
    "reads seven extension headers": wrong(packet, "MAX_EXTENSION_HEADERS", 7),
    "reads three VLAN tags": wrong(packet, "MAX_TAGS", 3),
    "reads one VLAN tag": wrong(packet, "MAX_TAGS", 1),
    "takes all neighbour discovery for some": wrong(packet, "NEIGHBOUR_DISCOVERY", range(134, 138)),
    "wants no whole head of sctp": wrong(packet, "L4_BYTES", {**packet.L4_BYTES, 132: 8}),
    "wants a longer head of udp": wrong(packet, "L4_BYTES", {**packet.L4_BYTES, 17: 9}),
    "takes no data offset": wrong(packet, "_tcp_flags", lambda frame, head: frame[head.l4 + 13]),
    "knows no ICMPv6 packet too big": wrong(packet, "ERRORS", {**packet.ERRORS, 58: (1, 3, 4)}),
    "takes the host for the world": wrong(world, "LOOPBACK_V4", range(0)),
    "audits nothing": wrong(machine.Machine, "_without_policy", lambda _, denial: denial),
}


@pytest.fixture(scope="module")
def right(place: Place) -> Iterator[list[tuple[int, Loads]]]:
    """Loads of some seeds, for every wrong machine."""
    loads = [(seed, Loads(_ground(seed).policies, "chosen", compile_text)) for seed in SEEDS[:8]]
    yield loads
    for _, one in loads:
        one.close()


@pytest.mark.parametrize("name", MACHINES)
def test_a_wrong_machine_is_caught(name: str, place: Place, right: list[tuple[int, Loads]]) -> None:
    with MACHINES[name]():
        for part in range(CASES):
            for seed, loads in right:
                if play(_case(seed, part), place, loads).differences:
                    return
    pytest.fail(f"nothing differs with a machine that {name}")


def test_a_generation_that_stays_is_caught(place: Place, right: list[tuple[int, Loads]]) -> None:
    configure = Load.configure

    def stale(self: Load, *args: Any, **kwargs: Any) -> None:
        self.generation = 1
        configure(self, *args, **kwargs)

    with mock.patch.object(Load, "configure", stale):
        cases = ((_case(seed, part), loads) for part in range(CASES) for seed, loads in right)
        assert any(play(case, place, loads).differences for case, loads in cases)


# --- wrong programs: what they do before they judge ---------------------------------------------------------------------


def _ageless(f: Any, maps: Any, map_: str, key: Any, flow: Any) -> Any:
    found = _NEAR_AT(f, maps, map_, key, flow)
    found.generation = I32(1)
    return found


_NEAR_AT = near.Near.at

PROGRAMS: dict[str, Callable[[], Any]] = {
    "remember packets over generations and replaced connections": wrong(recent, "_stamp", lambda *_: I64(1)),
    "remember packets of replaced connections": wrong(recent, "void", _always(None)),
    "remember SYN, FIN and RST": wrong(
        state, "opens_or_closes", lambda f, flow: f.ne(flow.get("family"), flow.get("family"))
    ),
    "take the check of one direction for both": wrong(state, "checked_at", _always(CT_CHECKED[0])),
    "remember points over generations": wrong(near.Near, "at", _ageless),
    "read fragments where they lie": wrong(direct, "IPV4_FRAGMENT", 0),
    "take no data offset where it lies": wrong(direct, "LEAST_TCP_WORDS", 0),
    "take options for ports where they lie": wrong(direct, "IPV4_NO_OPTIONS", 0x46),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_wrong_programs_are_caught(name: str, place: Place) -> None:
    def compile_wrong(text: str, structure: str) -> Artifact:
        with PROGRAMS[name]():
            return compiled(checked(text), structure)

    for seed in SEEDS:
        on = _ground(seed)
        with Loads(on.policies, on.structure, compile_wrong) as loads:
            if any(play(_case(seed, part), place, loads).differences for part in range(CASES)):
                return
    pytest.fail(f"nothing differs with programs that {name}")
