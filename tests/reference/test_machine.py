"""The packet-level model: attach points, connections, re-judging, fragments, ICMP errors (docs/architecture.md)."""

from __future__ import annotations

import pytest

from policyc.model import Policy
from policyc.reference.connections import TICK
from policyc.reference.machine import Cgroup, Hook, Machine, State, Uplink, Workload
from tests.reference import frames as f
from tests.reference.builders import (
    ALL,
    ANY,
    HOST_PEER,
    IN,
    OUT,
    OUTSIDE,
    THIS_MACHINE,
    ep,
    icmp,
    peer,
    policy,
    rule,
    tcp,
    udp,
    world,
)  # fmt: skip

VETH, UPLINK, ELSEWHERE = 7, 8, 9
WEB, DB, WEB6 = "10.0.0.1", "10.0.0.2", "2001:db8::1"
ROUTER = "198.51.100.1"
SYN, SYN_ACK, ACKED, FIN, RST = 2, 18, 16, 17, 4

WEB_SERVER = policy(rule("allow", ANY, tcp(80)), on=peer(app="web"))


def machine(*items: Policy, audit: bool = False) -> Machine:
    """`web` is bound to an interface, everybody else is judged at the uplink."""
    return Machine(world(*items), {VETH: Workload("web"), UPLINK: Uplink()}, audit=audit)


def ip(src: str, dst: str, protocol: int, payload: bytes, **more: object) -> bytes:
    make = f.ipv6 if ":" in src else f.ipv4
    return f.ether(make(src, dst, protocol, payload, **more))  # type: ignore[operator]


def seg(src: str, sport: int, dst: str, dport: int, flags: int = SYN) -> bytes:
    return ip(src, dst, 6, f.tcp(sport, dport, flags))


def arrives(m: Machine, frame: bytes, seconds: int = 0) -> tuple[str, str]:
    """At `web`, through the host's end of its link."""
    judgement = m.packet(Hook.TC_EGRESS, frame, seconds * TICK, ifindex=VETH)
    return judgement.verdict, judgement.reason


def leaves(m: Machine, frame: bytes, seconds: int = 0) -> tuple[str, str]:
    judgement = m.packet(Hook.TC_INGRESS, frame, seconds * TICK, ifindex=VETH)
    return judgement.verdict, judgement.reason


def uplink(m: Machine, frame: bytes, hook: Hook = Hook.TC_INGRESS) -> tuple[str, str]:
    judgement = m.packet(hook, frame, ifindex=UPLINK)
    return judgement.verdict, judgement.reason


# --- where ----------------------------------------------------------------------------------------------------------


def test_not_ready_denies_and_dormant_passes_everything() -> None:
    m = machine()
    m.state = State.NOT_READY
    assert arrives(m, f.ether(b"", kind=b"\x08\x06")) == ("deny", "not-ready")
    m.state = State.DORMANT
    assert arrives(m, seg(OUTSIDE, 1, WEB, 1)) == ("allow", "none")
    m.state = State.ACTIVE
    assert m.packet(Hook.XDP_INGRESS, seg(OUTSIDE, 1, WEB, 1), ifindex=ELSEWHERE).reason == "not-ready"


def test_an_unregistered_workload_is_denied_everything() -> None:
    m = machine()
    m.points = {VETH: Workload(None), ELSEWHERE: Workload("gone")}
    discovery = ip(WEB6, "ff02::1", 58, f.icmp(135), hops=255)
    for frame in (seg(OUTSIDE, 1, WEB, 80), f.ether(b"", kind=b"\x08\x06"), discovery):
        assert arrives(m, frame) == ("deny", "unregistered")
        assert m.packet(Hook.TC_EGRESS, frame, ifindex=ELSEWHERE).reason == "unregistered"


def test_what_is_no_flow_passes_under_default_deny() -> None:
    m = machine(policy(on=peer(app="web"), isolate=(IN, OUT)))
    assert arrives(m, f.ether(b"", kind=b"\x08\x06")) == ("allow", "none")
    assert arrives(m, ip("fe80::9", WEB6, 58, f.icmp(135), hops=255)) == ("allow", "none")
    assert leaves(m, ip("::", "ff02::16", 58, f.icmp(143), hops=1)) == ("allow", "none")
    assert arrives(m, ip("fe80::9", WEB6, 58, f.icmp(135), hops=64)) == ("deny", "default")


def test_the_hosts_end_of_a_link_is_the_other_direction() -> None:
    m = machine(WEB_SERVER)
    assert arrives(m, seg(OUTSIDE, 1, WEB, 80)) == ("allow", "rule")
    assert leaves(m, seg(WEB, 5, OUTSIDE, 81)) == ("allow", "default")
    assert m.packet(Hook.XDP_INGRESS, seg(WEB, 6, OUTSIDE, 81), ifindex=VETH).reason == "default"


def test_the_bound_endpoint_is_the_subject_whatever_the_destination() -> None:
    assert arrives(machine(WEB_SERVER), seg(OUTSIDE, 1, DB, 81)) == ("deny", "default")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (seg(WEB, 1, OUTSIDE, 80), "no-policy"),
        (seg(DB, 1, OUTSIDE, 80), "spoofed-source"),
        (seg("192.168.0.1", 1, OUTSIDE, 80), "spoofed-source"),
        (seg("127.0.0.1", 1, OUTSIDE, 80), "spoofed-source"),
        (ip("0.0.0.0", "255.255.255.255", 17, f.udp(68, 67)), "no-policy"),
        (ip("0.0.0.0", "255.255.255.255", 17, f.udp(68, 68)), "spoofed-source"),
        (ip("fe80::1", "ff02::1:2", 17, f.udp(546, 547)), "no-policy"),
        (ip("::", "ff02::1:2", 17, f.udp(546, 547)), "no-policy"),
        (ip("fe80::1", "ff02::1:2", 17, f.udp(546, 53)), "spoofed-source"),
        (ip(DB, OUTSIDE, 6, f.tcp(1, 80)[:5]), "spoofed-source"),
    ],
)
def test_sources_of_a_workload(frame: bytes, reason: str) -> None:
    assert leaves(machine(), frame)[1] == reason


def test_at_an_uplink_the_owner_of_the_local_address_is_judged_unless_it_is_bound() -> None:
    m = machine(policy(rule("allow", ANY, tcp(80)), on=[peer(app="web"), peer(app="db"), HOST_PEER]))
    assert uplink(m, seg(OUTSIDE, 1, DB, 81)) == ("deny", "default")
    assert uplink(m, seg(OUTSIDE, 1, THIS_MACHINE[0], 81)) == ("deny", "default")
    assert uplink(m, seg(OUTSIDE, 1, WEB, 81)) == ("allow", "no-subject")
    assert uplink(m, seg(OUTSIDE, 1, "203.0.113.9", 81)) == ("allow", "no-subject")
    assert uplink(m, seg(DB, 1, OUTSIDE, 81), Hook.TC_EGRESS) == ("allow", "default")
    assert uplink(m, seg(WEB, 1, OUTSIDE, 81), Hook.TC_EGRESS) == ("allow", "no-subject")


def test_who_claims_a_bound_endpoints_address_at_an_uplink_is_denied() -> None:
    m = machine()
    assert uplink(m, seg(WEB, 1, DB, 80)) == ("deny", "spoofed-source")
    assert uplink(m, seg(DB, 1, "203.0.113.9", 80)) == ("allow", "no-subject")


def test_the_nearest_bound_cgroup_is_the_subject() -> None:
    m = Machine(
        world(policy(isolate=(IN,), on=peer(app="db"))),
        cgroups={1: Cgroup("web"), 2: Cgroup("db"), 3: Cgroup("job", streams_only=True), 4: Cgroup(None)},
    )

    def at(*ids: int, frame: bytes = f.ipv4(OUTSIDE, DB, 6, f.tcp(1, 80))) -> str:
        return m.packet(Hook.CGROUP_INGRESS, frame, cgroups=ids).reason

    assert at(99, 1, 2) == "no-policy"
    assert at(99, 2, 1) == "default"
    assert at(3, 2) == "none"
    assert at(4, 2) == "unregistered"
    assert at(99) == "unregistered"
    assert at(2, frame=f.ipv6("2001:db8:9::1", WEB6, 17, f.udp(1, 2))) == "default"


def test_loopback_is_not_judged_in_a_workloads_own_namespace() -> None:
    m = Machine(world(policy(isolate=(IN, OUT))), cgroups={1: Cgroup("web", own_netns=True), 2: Cgroup("db")})
    frame = f.ipv4("127.0.0.1", "127.0.0.1", 6, f.tcp(1, 80))
    assert m.packet(Hook.CGROUP_INGRESS, frame, cgroups=[1], ifindex=1).reason == "none"
    assert m.packet(Hook.CGROUP_INGRESS, frame, cgroups=[1], ifindex=2).reason == "default"
    assert m.packet(Hook.CGROUP_INGRESS, frame, cgroups=[2], ifindex=1).reason == "default"


def test_an_endpoint_without_addresses_owns_the_hosts() -> None:
    w = world(endpoints=(*ALL, ep("pg", cgroup="/pg")))
    m = Machine(w, cgroups={1: Cgroup("pg")})

    def sends(source: str) -> str:
        return m.packet(Hook.CGROUP_EGRESS, f.ipv4(source, OUTSIDE, 6, f.tcp(1, 80)), cgroups=[1]).reason

    assert [sends("192.168.0.1"), sends("127.0.0.1"), sends(WEB)] == ["no-policy", "no-policy", "spoofed-source"]


# --- malformed ------------------------------------------------------------------------------------------------------

BROKEN = ip(OUTSIDE, WEB, 6, f.tcp(1, 80)[:10])


def test_what_cannot_be_parsed_is_denied_for_whom_a_policy_selects() -> None:
    assert arrives(machine(policy(rule("allow"), on=peer(app="web"))), BROKEN) == ("deny", "malformed")
    assert arrives(machine(policy(rule("allow"), on=peer(app="db"))), BROKEN) == ("allow", "no-policy")
    assert arrives(machine(WEB_SERVER), f.ether(b"\x45")) == ("deny", "malformed")
    assert uplink(machine(), f.ether(b"\x45")) == ("deny", "malformed")
    assert uplink(machine(), BROKEN) == ("allow", "no-subject")


def test_an_audited_policy_reports_malformed() -> None:
    judgement = machine(policy(rule("allow"), audit=True)).packet(Hook.TC_EGRESS, BROKEN, ifindex=VETH)
    assert (judgement.verdict, judgement.reason) == ("allow", "no-policy")
    assert judgement.prospective is not None
    assert judgement.prospective.reason == "malformed"


# --- connections ----------------------------------------------------------------------------------------------------

CLIENT = policy(rule("allow", ANY, tcp(80), udp(53), icmp(8), direction=OUT), on=peer(app="web"), isolate=(IN, OUT))


def test_replies_of_an_allowed_connection_pass_and_nothing_else() -> None:
    m = machine(CLIENT)
    assert arrives(m, seg(OUTSIDE, 80, WEB, 5000, SYN_ACK)) == ("deny", "default")
    assert leaves(m, seg(WEB, 5000, OUTSIDE, 80)) == ("allow", "rule")
    assert arrives(m, seg(OUTSIDE, 80, WEB, 5000, SYN_ACK)) == ("allow", "established")
    assert leaves(m, seg(WEB, 5000, OUTSIDE, 80, ACKED)) == ("allow", "established")
    assert arrives(m, seg(OUTSIDE, 80, WEB, 5001, SYN_ACK)) == ("deny", "default")
    assert arrives(m, seg(ROUTER, 80, WEB, 5000, SYN_ACK)) == ("deny", "default")


def test_a_syn_is_judged_also_on_a_known_tuple() -> None:
    m = machine(CLIENT)
    leaves(m, seg(WEB, 5000, OUTSIDE, 80))
    assert arrives(m, seg(OUTSIDE, 80, WEB, 5000, SYN)) == ("deny", "default")
    assert arrives(m, seg(OUTSIDE, 80, WEB, 5000, SYN_ACK)) == ("allow", "established")  # a denied one leaves it
    assert leaves(m, seg(WEB, 5000, OUTSIDE, 80, SYN)) == ("allow", "rule")


def test_an_entry_of_one_end_never_answers_for_the_other() -> None:
    m = machine(CLIENT, policy(isolate=(IN,), on=peer(app="db"), name="d"))
    assert leaves(m, seg(WEB, 5000, DB, 80)) == ("allow", "rule")
    assert m.packet(Hook.TC_EGRESS, seg(WEB, 5000, DB, 80), ifindex=UPLINK).reason == "no-subject"
    m.points[ELSEWHERE] = Workload("db")
    assert m.packet(Hook.TC_EGRESS, seg(WEB, 5000, DB, 80, ACKED), ifindex=ELSEWHERE).reason == "default"


def test_echo_is_known_by_its_identifier_and_way() -> None:
    m = machine(CLIENT)
    request, reply = (f.icmp(kind, identifier=7) for kind in (8, 0))
    assert leaves(m, ip(WEB, OUTSIDE, 1, request)) == ("allow", "rule")
    assert arrives(m, ip(OUTSIDE, WEB, 1, reply)) == ("allow", "established")
    assert arrives(m, ip(OUTSIDE, WEB, 1, f.icmp(0, identifier=8))) == ("deny", "default")
    assert arrives(m, ip(OUTSIDE, WEB, 1, request)) == ("deny", "default")
    assert leaves(m, ip(WEB, OUTSIDE, 1, reply)) == ("deny", "default")


def test_other_icmp_makes_no_connection_and_other_protocols_do() -> None:
    m = machine(policy(rule("allow", direction=OUT), on=peer(app="web"), isolate=(IN,)))
    leaves(m, ip(WEB, OUTSIDE, 1, f.icmp(13)))
    assert arrives(m, ip(OUTSIDE, WEB, 1, f.icmp(14))) == ("deny", "default")
    leaves(m, ip(WEB, OUTSIDE, 112, b""))
    assert arrives(m, ip(OUTSIDE, WEB, 112, b"")) == ("allow", "established")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], 60),
        ([(OUT, ACKED), (IN, SYN_ACK)], 7450),
        ([(IN, SYN_ACK), (IN, RST)], 10),
        ([(IN, SYN_ACK), (IN, FIN)], 7450),
        ([(IN, SYN_ACK), (IN, FIN), (OUT, FIN)], 10),
    ],
)
def test_tcp_entries_end_after_their_idle_time(before: list[tuple[object, int]], after: int) -> None:
    for wait, reason in ((after, "established"), (after + 1, "default")):
        m = machine(CLIENT)
        leaves(m, seg(WEB, 5000, OUTSIDE, 80))
        for way, flags in before:
            assert (leaves if way is OUT else arrives)(
                m, seg(*((WEB, 5000, OUTSIDE, 80) if way is OUT else (OUTSIDE, 80, WEB, 5000)), flags)
            )[1] == "established"
        assert arrives(m, seg(OUTSIDE, 80, WEB, 5000, ACKED), wait)[1] == reason


def test_other_entries_end_after_120() -> None:
    for wait, reason in ((120, "established"), (121, "default")):
        m = machine(CLIENT)
        leaves(m, ip(WEB, OUTSIDE, 17, f.udp(9, 53)))
        assert arrives(m, ip(OUTSIDE, WEB, 17, f.udp(53, 9)), wait)[1] == reason


def test_live_connections_are_judged_again_in_the_direction_of_their_first_packet() -> None:
    m = machine(CLIENT)
    leaves(m, seg(WEB, 5000, OUTSIDE, 80))
    m.update(world(CLIENT))
    assert arrives(m, seg(OUTSIDE, 80, WEB, 5000, SYN_ACK)) == ("allow", "established")
    m.update(world(policy(rule("deny", ANY, tcp(80), direction=OUT), on=peer(app="web"))))
    assert arrives(m, seg(OUTSIDE, 80, WEB, 5000, ACKED)) == ("deny", "rule")
    assert leaves(m, seg(WEB, 5000, OUTSIDE, 80, ACKED)) == ("deny", "rule")
    m.update(world())
    assert arrives(m, seg(OUTSIDE, 80, WEB, 5000, ACKED)) == ("allow", "established")


def test_a_change_of_labels_reaches_live_connections() -> None:
    m = machine(CLIENT)
    leaves(m, ip(WEB, OUTSIDE, 1, f.icmp(8, identifier=3)))
    m.update(world(policy(isolate=(OUT,), on=peer(app="other")), endpoints=(ep("web", WEB, app="other"),)))
    assert arrives(m, ip(OUTSIDE, WEB, 1, f.icmp(0, identifier=3))) == ("deny", "default")


# --- related --------------------------------------------------------------------------------------------------------


def test_errors_that_quote_a_known_connection_pass() -> None:
    m = machine(CLIENT)
    leaves(m, ip(WEB, OUTSIDE, 17, f.udp(9, 53)))
    quoted = f.ipv4(WEB, OUTSIDE, 17, f.udp(9, 53))
    assert arrives(m, ip(ROUTER, WEB, 1, f.icmp(3, 1, rest=quoted))) == ("allow", "related")
    assert arrives(m, ip(ROUTER, WEB, 1, f.icmp(5, 1, rest=quoted))) == ("deny", "default")
    other = f.ipv4(WEB, OUTSIDE, 17, f.udp(10, 53))
    assert arrives(m, ip(ROUTER, WEB, 1, f.icmp(3, 1, rest=other))) == ("deny", "default")
    reversed_ = f.ipv4(OUTSIDE, WEB, 17, f.udp(53, 9))
    assert arrives(m, ip(ROUTER, WEB, 1, f.icmp(3, 1, rest=reversed_))) == ("deny", "default")


def test_errors_that_leave_quote_what_was_received() -> None:
    m = machine(policy(rule("allow", ANY, udp(53)), on=peer(app="web"), isolate=(IN, OUT)))
    arrives(m, ip(OUTSIDE, WEB, 17, f.udp(9, 53)))
    quoted = f.ipv4(OUTSIDE, WEB, 17, f.udp(9, 53))
    assert leaves(m, ip(WEB, OUTSIDE, 1, f.icmp(3, 3, rest=quoted))) == ("allow", "related")
    assert leaves(m, ip(WEB, ROUTER, 1, f.icmp(3, 3, rest=quoted))) == ("deny", "default")


def test_errors_of_a_connection_that_is_no_longer_allowed_stop() -> None:
    m = machine(CLIENT)
    leaves(m, ip(WEB, OUTSIDE, 17, f.udp(9, 53)))
    m.update(world(policy(isolate=(IN, OUT), on=peer(app="web"))))
    error = ip(ROUTER, WEB, 1, f.icmp(3, 1, rest=f.ipv4(WEB, OUTSIDE, 17, f.udp(9, 53))))
    assert arrives(m, error) == ("deny", "default")


# --- fragments ------------------------------------------------------------------------------------------------------


def piece(first: bool, number: int = 1, port: int = 80) -> bytes:
    if first:
        return ip(OUTSIDE, WEB, 6, f.tcp(1, port), more=True, number=number)
    return ip(OUTSIDE, WEB, 6, b"x" * 8, offset=9, number=number)


def test_a_later_fragment_follows_its_first() -> None:
    m = machine(WEB_SERVER)
    assert arrives(m, piece(False)) == ("deny", "fragment")
    assert arrives(m, piece(True)) == ("allow", "rule")
    assert arrives(m, piece(False)) == ("allow", "rule")
    assert arrives(m, piece(False, number=2)) == ("deny", "fragment")
    assert arrives(m, piece(True, number=2, port=81)) == ("deny", "default")
    assert arrives(m, piece(False, number=2)) == ("deny", "default")
    assert arrives(m, piece(False), 30) == ("allow", "rule")
    assert arrives(m, piece(False), 31) == ("deny", "fragment")
    m.update(world(WEB_SERVER))
    assert arrives(m, piece(False)) == ("deny", "fragment")


def test_a_first_fragment_without_its_l4_head_denies_its_later_ones() -> None:
    m = machine(policy(rule("allow"), on=peer(app="web")))
    assert arrives(m, ip(OUTSIDE, WEB, 6, f.tcp(1, 80)[:8], more=True)) == ("deny", "malformed")
    assert arrives(m, piece(False)) == ("deny", "malformed")
    assert arrives(m, piece(False, number=2)) == ("allow", "rule")


def test_a_later_ipv6_fragment_before_an_extension_header_needs_its_first() -> None:
    m = machine(policy(rule("allow"), on=peer(app="web")))
    src = "2001:db8:9::1"
    later = ip(src, WEB6, 44, f.fragment(60, b"x" * 8, more=False, offset=9))
    first = ip(src, WEB6, 44, f.fragment(60, f.extension(17, f.udp(1, 53)), more=True))
    assert arrives(m, later) == ("deny", "malformed")
    assert arrives(m, first) == ("allow", "rule")
    assert arrives(m, later) == ("allow", "rule")


# --- whole-load audit -----------------------------------------------------------------------------------------------


def test_a_load_that_only_reports_passes_and_tells() -> None:
    m = machine(policy(isolate=(IN,), on=peer(app="web")), audit=True)
    for frame, hook, reason in (
        (seg(OUTSIDE, 1, WEB, 80), Hook.TC_EGRESS, "default"),
        (seg(DB, 1, OUTSIDE, 80), Hook.TC_INGRESS, "spoofed-source"),
        (BROKEN, Hook.TC_EGRESS, "malformed"),
    ):
        judgement = m.packet(hook, frame, ifindex=VETH)
        assert (judgement.verdict, judgement.reason) == ("allow", "no-policy")
        assert judgement.prospective is not None
        assert judgement.prospective.reason == reason


def test_a_load_that_only_reports_has_all_that_is_audited_in_force() -> None:
    rules = rule("deny", ANY, tcp(80), audit=True, name="soon"), rule("allow", ANY, tcp(), name="now")
    m = machine(policy(*rules, on=peer(app="web")), audit=True)
    judgement = m.packet(Hook.TC_EGRESS, seg(OUTSIDE, 1, WEB, 80), ifindex=VETH)
    assert judgement.prospective is not None
    assert (judgement.verdict, judgement.prospective.verdict, judgement.prospective.reason) == ("allow", "deny", "rule")


# --- what events depend on --------------------------------------------------------------------------------------------


def test_what_a_packet_was_judged_by_is_noted() -> None:
    m = machine(WEB_SERVER)
    noted = []
    for frame in (seg(OUTSIDE, 1, WEB, 80), seg(OUTSIDE, 1, WEB, 80, ACKED), seg(OUTSIDE, 1, WEB, 81), BROKEN):
        arrives(m, frame)
        noted.append((m.noted.subject, m.noted.judged, m.noted.opened))
    web = ("web", False)
    assert noted == [(web, True, True), (web, False, False), (web, True, False), (web, True, False)]
    m.packet(Hook.TC_EGRESS, seg(OUTSIDE, 1, WEB, 80), ifindex=ELSEWHERE)
    assert (m.noted.subject, m.noted.packet) == (None, None)
