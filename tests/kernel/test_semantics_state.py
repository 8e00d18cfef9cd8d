"""State (semantics 3): connections, their replies and errors, changes under them, their end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from cases.scene import (
    CGROUP_IN,
    CGROUP_OUT,
    UPLINK_IN,
    UPLINK_OUT,
    UPLINK_XDP,
    WORKLOAD_IN,
    WORKLOAD_OUT,
    WORKLOAD_XDP,
    At,
    Scene,
    said,
)
from packets_differential import PASS, Place

from policyc.artifact.layout import CT, Events
from tests.reference.frames import ether, extension, fragment, icmp, ipv4, ipv6, sctp, tcp, udp

pytestmark = pytest.mark.bpf

POLICY = """
policy web for { app == web } {
  ingress { allow from any on tcp/80, udp/53, sctp/9, icmp/8, icmpv6/128, proto 47
            allow from { app == peer } on tcp/8080 as friends }
  egress  { allow to { app == peer } on tcp/443, udp/53, icmp/8 as out }
}
policy peer for { app == peer } {
  ingress { allow from any on tcp/443 as serves }
  egress  { allow to any on tcp/80 as calls }
}
policy alone for { app == alone } { egress { allow to any on udp, tcp, proto 47 as out }  ingress { allow from any on udp/54 as in } }
policy moved for { app == moved } { ingress { allow from any on tcp/81 as only-81 } }
"""
WHO = """
web  10.0.0.1 2001:db8::1 app=web
peer 10.0.0.2 2001:db8::2 app=peer
self 10.0.0.3 2001:db8::3 app=alone
"""
WEB, PEER, WORLD, WEB6, WORLD6 = "10.0.0.1", "10.0.0.2", "203.0.113.9", "2001:db8::1", "2001:db9::9"
FIN, SYN, RST, PUSH, ACK = 1, 2, 4, 8, 16
INGRESS = "web.ingress.1"
NEW, KNOWN, RELATED, DENIED = (
    f"allow rule {INGRESS}",
    f"allow established {INGRESS}",
    f"allow related {INGRESS}",
    "deny default",
)


@pytest.fixture(scope="module")
def loaded(place: Place) -> Iterator[Scene]:
    with Scene(place, POLICY, WHO) as scene:
        yield scene


@pytest.fixture(params=["uplink", "workload", "cgroup"])
def side(loaded: Scene, request: pytest.FixtureRequest) -> tuple[Scene, At, At]:
    """The scene with `web` judged there, and where packets go in to it and out from it."""
    loaded.bind(
        workload="web" if request.param == "workload" else None, inner="web" if request.param == "cgroup" else None
    )
    both = {
        "uplink": (UPLINK_IN, UPLINK_OUT),
        "workload": (WORKLOAD_IN, WORKLOAD_OUT),
        "cgroup": (CGROUP_IN, CGROUP_OUT),
    }
    return (loaded, *both[request.param])


def packet(src: str, dst: str, protocol: int, payload: bytes) -> bytes:
    return ether((ipv6 if ":" in src else ipv4)(src, dst, protocol, payload))


def tcp4(src: str, dst: str, sport: int, dport: int, flags: int = SYN) -> bytes:
    return packet(src, dst, 6, tcp(sport, dport, flags))


def error(src: str, dst: str, quoted: bytes, kind: int = 3, code: int = 3) -> bytes:
    """An ICMP error from `src` to `dst` about an Ethernet frame."""
    protocol = 58 if ":" in src else 1
    return packet(src, dst, protocol, icmp(kind, code, rest=quoted[14:]))


def test_packets_and_replies_of_a_known_connection_pass(side: tuple[Scene, At, At]) -> None:
    scene, in_, out = side
    for a, b in ((WORLD, WEB), (WORLD6, WEB6)):
        scene.check(out, tcp4(b, a, 80, 1000, SYN | ACK), DENIED)  # nothing known yet
        scene.check(in_, tcp4(a, b, 1000, 80), NEW)
        scene.check(out, tcp4(b, a, 80, 1000, SYN | ACK), KNOWN)
        scene.check(in_, tcp4(a, b, 1000, 80, ACK), KNOWN)
        scene.check(in_, tcp4(a, b, 1000, 80, PUSH | ACK), KNOWN)
        # other ports, other ends
        scene.check(out, tcp4(b, a, 80, 1001, ACK), DENIED)
        scene.check(out, tcp4(b, a, 81, 1000, ACK), DENIED)
        scene.check(in_, tcp4(a, b, 1000, 81, ACK), DENIED)


def test_xdp_and_tc_of_one_side_share_what_is_known(loaded: Scene) -> None:
    loaded.bind()
    loaded.check(UPLINK_XDP, tcp4(WORLD, WEB, 1000, 80), NEW)
    loaded.check(UPLINK_OUT, tcp4(WEB, WORLD, 80, 1000, SYN | ACK), KNOWN)
    loaded.check(UPLINK_IN, tcp4(WORLD, WEB, 1000, 80, ACK), KNOWN)
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80), NEW)
    loaded.check(WORKLOAD_XDP, tcp4(WEB, WORLD, 80, 1000, SYN | ACK), KNOWN)


@pytest.mark.parametrize(
    ("protocol", "there", "back", "other"),
    [
        (17, udp(1000, 53), udp(53, 1000), udp(53, 1001)),
        (132, sctp(1000, 9), sctp(9, 1000), sctp(9, 1001)),
        (1, icmp(8, 0, 77), icmp(0, 0, 77), icmp(0, 0, 78)),
        (58, icmp(128, 0, 77), icmp(129, 0, 77), icmp(129, 0, 78)),
        (47, b"gre", b"other", None),  # no ports: every packet between the two
    ],
    ids=said,
)  # fmt: skip
def test_other_protocols_have_connections_too(
    side: tuple[Scene, At, At], protocol: int, there: bytes, back: bytes, other: bytes | None
) -> None:
    scene, in_, out = side
    for a, b in ((WORLD, WEB), (WORLD6, WEB6)):
        scene.check(out, packet(b, a, protocol, back), DENIED)
        scene.check(in_, packet(a, b, protocol, there), NEW)
        scene.check(out, packet(b, a, protocol, back), KNOWN)
        scene.check(in_, packet(a, b, protocol, there), KNOWN)
        if other is not None:
            scene.check(out, packet(b, a, protocol, other), DENIED)


def test_a_syn_without_ack_is_judged_also_on_a_known_tuple(loaded: Scene) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80), NEW)
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80), NEW)
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80, SYN | ACK), KNOWN)
    # The other way it is denied, and the entry stays.
    for flags in (SYN, SYN | FIN, SYN | RST, SYN | PUSH, SYN | 0xC0):
        loaded.check(WORKLOAD_OUT, tcp4(WEB, WORLD, 80, 1000, flags), DENIED)
    loaded.check(WORKLOAD_OUT, tcp4(WEB, WORLD, 80, 1000, ACK), KNOWN)


@pytest.mark.parametrize("flags", [0, ACK, SYN | ACK, FIN, FIN | ACK, RST, RST | ACK, SYN | FIN, SYN | RST, 0x29, 0xFF])
def test_a_packet_of_no_known_connection_is_judged_as_new_in_the_direction_it_travels(
    loaded: Scene, flags: int
) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_OUT, tcp4(WEB, WORLD, 80, 1000, flags), DENIED)
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 81, flags), DENIED)
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80, flags), NEW)
    loaded.check(WORKLOAD_IN, tcp4(PEER, WEB, 1000, 8080, flags), "allow rule web.friends")


def test_what_was_denied_opens_nothing(loaded: Scene) -> None:
    loaded.bind(workload="web")
    for _ in range(2):
        loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 8080), DENIED)
        loaded.check(WORKLOAD_OUT, tcp4(WEB, WORLD, 8080, 1000, SYN | ACK), DENIED)
        loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 8080, ACK), DENIED)


def test_an_entry_of_one_end_never_answers_for_the_other(loaded: Scene) -> None:
    loaded.bind()
    syn, answer = tcp4(PEER, WEB, 1000, 8080), tcp4(WEB, PEER, 8080, 1000, SYN | ACK)
    loaded.check(UPLINK_IN, syn, "allow rule web.friends")
    loaded.check(UPLINK_OUT, syn, DENIED)  # judged for `peer`, which calls port 80 only
    loaded.check(UPLINK_OUT, answer, "allow established web.friends")
    loaded.check(UPLINK_IN, answer, DENIED)
    # Both ends allow: an entry each, counted for each.
    syn, answer = tcp4(PEER, WEB, 1000, 80), tcp4(WEB, PEER, 80, 1000, SYN | ACK)
    loaded.check(UPLINK_OUT, syn, "allow rule peer.calls")
    loaded.check(UPLINK_IN, syn, NEW)
    loaded.check(UPLINK_OUT, answer, KNOWN)
    loaded.check(UPLINK_IN, answer, "allow established peer.calls")
    assert len(list(loaded.kernel.map("ct4").keys())) == 3


@pytest.mark.parametrize("own", ["10.0.0.3", "2001:db8::3"])
def test_what_an_endpoint_sends_itself_is_judged_where_it_arrives_too(loaded: Scene, own: str) -> None:
    """Also where the tuple is the same from both sides: equal ports, or none."""
    loaded.bind(inner="self")
    for protocol, payload in ((17, udp(53, 53)), (6, tcp(53, 53, ACK)), (47, b""), (17, udp(1000, 53))):
        own_packet = packet(own, own, protocol, payload)
        for _ in range(2):
            assert loaded.of_kernel(CGROUP_OUT, own_packet).endswith(" alone.out")
            assert loaded.of_model(CGROUP_OUT, own_packet).endswith(" alone.out")
            loaded.check(CGROUP_IN, own_packet, DENIED)
    loaded.check(CGROUP_OUT, packet(own, own, 17, udp(54, 54)), "allow rule alone.out")
    loaded.check(CGROUP_IN, packet(own, own, 17, udp(54, 54)), "allow rule alone.in")


def test_echo_is_known_by_its_identifier_and_way(loaded: Scene) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, packet(WORLD, WEB, 1, icmp(8, 0, 7)), NEW)
    loaded.check(WORKLOAD_OUT, packet(WEB, WORLD, 1, icmp(0, 0, 7)), "allow established web.ingress.1")
    # a request the other way, with the same identifier, is new; a reply the same way belongs to nothing
    loaded.check(WORKLOAD_OUT, packet(WEB, WORLD, 1, icmp(8, 0, 7)), DENIED)
    loaded.check(WORKLOAD_IN, packet(WORLD, WEB, 1, icmp(0, 0, 7)), DENIED)
    # an echo of the other ICMP, other types with the same bytes
    loaded.check(WORKLOAD_OUT, packet(WEB, WORLD, 58, icmp(129, 0, 7)), DENIED)
    loaded.check(WORKLOAD_OUT, packet(WEB, WORLD, 1, icmp(14, 0, 7)), DENIED)
    loaded.check(WORKLOAD_OUT, packet(WEB, WORLD, 1, icmp(129, 0, 7)), DENIED)


def test_a_tuple_is_of_one_protocol_and_family(loaded: Scene) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, packet(WORLD, WEB, 17, udp(1000, 53)), NEW)
    loaded.check(WORKLOAD_OUT, packet(WEB, WORLD, 132, sctp(53, 1000)), DENIED)
    loaded.check(WORKLOAD_OUT, tcp4(WEB, WORLD, 53, 1000, ACK), DENIED)
    loaded.check(WORKLOAD_IN, packet(WORLD, WEB, 1, icmp(8, 0, 0)), NEW)
    loaded.check(WORKLOAD_OUT, packet(WEB, WORLD, 50, b""), DENIED)  # ports 0 of another protocol
    loaded.check(WORKLOAD_OUT, packet(WEB6, "::203.0.113.9", 17, udp(53, 1000)), DENIED)
    loaded.check(WORKLOAD_OUT, packet(WEB6, "::ffff:203.0.113.9", 17, udp(53, 1000)), DENIED)


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "passes"), [(3, True), (11, True), (12, True), (4, False), (5, False), (0, False), (13, False)]
)
def test_icmp_errors_that_quote_a_known_connection_pass(side: tuple[Scene, At, At], kind: int, passes: bool) -> None:
    scene, in_, out = side
    there, back = tcp4(WORLD, WEB, 1000, 80), tcp4(WEB, WORLD, 80, 1000, ACK)
    scene.check(in_, error("198.51.100.1", WEB, back, kind), DENIED)
    scene.check(in_, there, NEW)
    # A router on the way tells the subject about what it sent; the subject tells about what it got.
    scene.check(in_, error("198.51.100.1", WEB, back, kind), RELATED if passes else DENIED)
    scene.check(out, error(WEB, WORLD, there, kind), RELATED if passes else DENIED)


@pytest.mark.parametrize(
    ("kind", "passes"), [(1, True), (2, True), (3, True), (4, True), (5, False), (127, False), (129, False)]
)
def test_icmpv6_errors_that_quote_a_known_connection_pass(side: tuple[Scene, At, At], kind: int, passes: bool) -> None:
    scene, in_, out = side
    there, back = tcp4(WORLD6, WEB6, 1000, 80), tcp4(WEB6, WORLD6, 80, 1000, ACK)
    scene.check(in_, there, NEW)
    scene.check(in_, error("2001:db8:99::1", WEB6, back, kind, 0), RELATED if passes else DENIED)
    scene.check(out, error(WEB6, WORLD6, there, kind, 0), RELATED if passes else DENIED)


def quoting(inner: bytes, outer: tuple[str, str] = ("198.51.100.1", WEB), protocol: int = 1, kind: int = 3) -> bytes:
    return packet(*outer, protocol, icmp(kind, 3, rest=inner))


@pytest.mark.parametrize(
    "frame",
    [
        # quotes what the subject received, not what it sent
        quoting(ipv4(WORLD, WEB, 6, tcp(1000, 80))),
        # quotes what the subject sent, but goes to another address
        quoting(ipv4(WEB, WORLD, 6, tcp(80, 1000)), ("198.51.100.1", PEER)),
        # another port, protocol, end
        quoting(ipv4(WEB, WORLD, 6, tcp(80, 1001))),
        quoting(ipv4(WEB, WORLD, 17, udp(80, 1000))),
        quoting(ipv4(WEB, PEER, 6, tcp(80, 1000))),
        # a later fragment of it, less than 8 bytes of its head, another version, an error about an error
        quoting(ipv4(WEB, WORLD, 6, tcp(80, 1000), offset=1)),
        quoting(ipv4(WEB, WORLD, 6, tcp(80, 1000)[:7])),
        quoting(ipv6(WEB6, WORLD6, 6, tcp(80, 1000))),
        quoting(ipv4(WEB, WORLD, 1, icmp(3, 3, rest=ipv4(WEB, WORLD, 6, tcp(80, 1000))))),
        quoting(b""),
        quoting(ipv4(WEB, WORLD, 6, tcp(80, 1000), ihl=4)),
        # an error that is a fragment
        ether(ipv4("198.51.100.1", WEB, 1, icmp(3, 3, rest=ipv4(WEB, WORLD, 6, tcp(80, 1000))), more=True)),
    ],
    ids=said,
)  # fmt: skip
def test_errors_that_do_not_quote_what_the_subject_sent_are_judged_as_new(loaded: Scene, frame: bytes) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80), NEW)
    loaded.check(WORKLOAD_IN, frame, DENIED)


def test_an_error_quotes_enough_with_eight_bytes_of_the_head(loaded: Scene) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80), NEW)
    loaded.check(WORKLOAD_IN, quoting(ipv4(WEB, WORLD, 6, tcp(80, 1000)[:8])), RELATED)
    loaded.check(WORKLOAD_IN, quoting(ipv4(WEB, WORLD, 6, tcp(80, 1000)[:8], options=b"\1" * 8)), RELATED)
    loaded.check(WORKLOAD_IN, tcp4(WORLD6, WEB6, 1000, 80), NEW)
    chained = ipv6(WEB6, WORLD6, 0, extension(60, extension(6, tcp(80, 1000))))
    loaded.check(WORKLOAD_IN, quoting(chained, (WORLD6, WEB6), 58, 2), RELATED)
    first = ipv6(WEB6, WORLD6, 44, fragment(6, tcp(80, 1000), more=True))
    loaded.check(WORKLOAD_IN, quoting(first, (WORLD6, WEB6), 58, 2), RELATED)


def test_an_error_of_one_end_never_answers_for_the_other(loaded: Scene) -> None:
    loaded.bind()
    loaded.check(UPLINK_IN, tcp4(PEER, WEB, 1000, 80), NEW)
    told = error("198.51.100.1", PEER, tcp4(PEER, WEB, 1000, 80))
    loaded.check(UPLINK_IN, told, DENIED)  # `peer` knows of no connection
    loaded.check(UPLINK_OUT, error(WEB, PEER, tcp4(PEER, WEB, 1000, 80)), RELATED)


def test_errors_do_not_keep_a_connection_alive(loaded: Scene) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, packet(WORLD, WEB, 17, udp(1000, 53)), NEW)
    told = quoting(ipv4(WEB, WORLD, 17, udp(53, 1000)))
    loaded.age(119)
    loaded.check(WORKLOAD_IN, told, RELATED)
    loaded.age(3)
    loaded.check(WORKLOAD_IN, told, DENIED)


# --- changes ----------------------------------------------------------------------------------------------------


def test_a_change_of_labels_cuts_what_is_no_longer_allowed_and_keeps_the_rest(loaded: Scene) -> None:
    loaded.bind(workload="web")
    friend, anybody = tcp4(PEER, WEB, 1000, 8080, ACK), tcp4(WORLD, WEB, 1000, 80, ACK)
    loaded.check(WORKLOAD_IN, friend, "allow rule web.friends")
    loaded.check(WORKLOAD_IN, anybody, NEW)
    loaded.relabel("peer app=stranger")
    loaded.check(WORKLOAD_OUT, tcp4(WEB, PEER, 8080, 1000, ACK), DENIED)  # in the direction of the first packet
    loaded.check(WORKLOAD_IN, friend, DENIED)
    loaded.check(WORKLOAD_IN, anybody, KNOWN)
    loaded.check(WORKLOAD_OUT, tcp4(WEB, WORLD, 80, 1000, ACK), KNOWN)
    # errors about it stop, too
    loaded.check(WORKLOAD_IN, error("198.51.100.1", WEB, tcp4(WEB, PEER, 8080, 1000, ACK)), DENIED)
    # until the policy changes again
    loaded.relabel("peer app=peer")
    loaded.check(WORKLOAD_IN, friend, "allow established web.friends")


def test_a_change_of_the_subjects_labels_brings_it_other_rules(loaded: Scene) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80), NEW)
    loaded.relabel("web app=moved")
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80, ACK), DENIED)
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 81), "allow rule moved.only-81")
    loaded.relabel("web app=nothing")
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 81, ACK), "allow established")
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80, ACK), "allow established")


def test_a_new_generation_alone_changes_nothing(loaded: Scene) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80), NEW)
    loaded.check(WORKLOAD_IN, packet(WORLD, WEB, 1, icmp(8, 0, 7)), NEW)
    loaded.new_generation()
    loaded.check(WORKLOAD_OUT, tcp4(WEB, WORLD, 80, 1000, ACK), KNOWN)
    loaded.check(WORKLOAD_OUT, packet(WEB, WORLD, 1, icmp(0, 0, 7)), KNOWN)
    loaded.check(WORKLOAD_IN, quoting(ipv4(WEB, WORLD, 6, tcp(80, 1000))), RELATED)


def test_what_programs_of_another_generation_have_judged_since_is_judged_again(loaded: Scene) -> None:
    """As while one load replaces another: both judge, at different points, over the same tables."""
    loaded.bind()
    loaded.configure(events=Events.NONE)
    try:
        frame = tcp4(WORLD, WEB, 40000, 80, ACK)
        for _ in range(3):
            assert loaded.send(UPLINK_IN, frame)[0] == PASS[UPLINK_IN.hook]
        table = loaded.kernel.map("ct4")
        ((key, value),) = [(key, table.lookup(key) or b"") for key in list(table.keys())]
        fields = list(CT.unpack(value))
        fields[:2] = loaded.kernel.generation + 1, 0  # allowed there, by no rule
        table.update(key, CT.pack(*fields))
        loaded.kernel.forget_recent()
        before = loaded.counts()
        assert loaded.send(UPLINK_IN, frame)[0] == PASS[UPLINK_IN.hook]
        assert loaded.counts() - before == Counter(["ingress allow established", INGRESS])
        assert CT.unpack(table.lookup(key) or b"")[0] == loaded.kernel.generation
    finally:
        loaded.configure(events=Events.TRACE)


def test_a_denied_connection_ends_with_an_allowed_syn(loaded: Scene) -> None:
    loaded.bind(workload="web")
    loaded.check(WORKLOAD_IN, tcp4(PEER, WEB, 8080, 8080, ACK), "allow rule web.friends")
    loaded.relabel("peer app=stranger")
    loaded.check(WORKLOAD_IN, tcp4(PEER, WEB, 8080, 8080, ACK), DENIED)
    loaded.check(WORKLOAD_IN, tcp4(PEER, WEB, 8080, 8080), DENIED)
    loaded.check(WORKLOAD_OUT, tcp4(WEB, PEER, 8080, 8080, ACK), DENIED)
    loaded.relabel("peer app=peer")
    loaded.check(WORKLOAD_IN, tcp4(PEER, WEB, 8080, 8080), "allow rule web.friends")
    loaded.check(WORKLOAD_OUT, tcp4(WEB, PEER, 8080, 8080, ACK), "allow established web.friends")


# --- ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packets", "limit"),
    [
        ([], 60),
        ([(WORKLOAD_IN, ACK)], 60),
        ([(WORKLOAD_OUT, SYN | ACK)], 7450),
        ([(WORKLOAD_OUT, SYN | ACK), (WORKLOAD_IN, FIN | ACK)], 7450),
        ([(WORKLOAD_OUT, FIN | ACK), (WORKLOAD_IN, FIN | ACK)], 10),
        ([(WORKLOAD_OUT, RST)], 10),
        ([(WORKLOAD_IN, RST | ACK)], 10),
    ],
)
def test_tcp_entries_end_after_idle_times_and_soon_after_fin_and_rst(
    loaded: Scene, packets: list[tuple[At, int]], limit: int
) -> None:
    for age, expected in ((limit - 1, KNOWN), (limit + 2, DENIED)):
        loaded.bind(workload="web")
        loaded.check(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 80), NEW)
        for at, flags in packets:
            ends = (WORLD, WEB, 1000, 80) if at is WORKLOAD_IN else (WEB, WORLD, 80, 1000)
            loaded.check(at, tcp4(*ends, flags), KNOWN)
        loaded.age(age)
        loaded.check(WORKLOAD_OUT, tcp4(WEB, WORLD, 80, 1000, ACK), expected)


def test_other_entries_end_after_120(loaded: Scene) -> None:
    for protocol, there, back in (
        (17, udp(1000, 53), udp(53, 1000)),
        (1, icmp(8, 0, 7), icmp(0, 0, 7)),
        (47, b"", b""),
    ):
        for age, expected in ((119, KNOWN), (122, DENIED)):
            loaded.bind(workload="web")
            loaded.check(WORKLOAD_IN, packet(WORLD, WEB, protocol, there), NEW)
            loaded.age(age)
            loaded.check(WORKLOAD_OUT, packet(WEB, WORLD, protocol, back), expected)


def test_a_full_table_evicts_and_what_was_evicted_is_judged_as_new(place: Place) -> None:
    with Scene(place, POLICY, WHO, workload="web", tables={"ct4": 16}) as scene:
        ports = range(1000, 1400)
        for port in ports:
            assert scene.of_kernel(WORKLOAD_IN, tcp4(WORLD, WEB, port, 80)) == NEW
        answers = [scene.of_kernel(WORKLOAD_OUT, tcp4(WEB, WORLD, 80, port, ACK)) for port in ports]
        assert set(answers) == {KNOWN, DENIED}
        assert answers[-1] == KNOWN
        assert answers.count(KNOWN) <= 16
        # The way it travels an evicted one is entered anew.
        assert scene.of_kernel(WORKLOAD_IN, tcp4(WORLD, WEB, ports[0], 80, ACK)) == NEW


def test_rules_count_packets_bytes_and_connections(place: Place) -> None:
    with Scene(place, POLICY, WHO, workload="web") as scene:
        frames = [tcp4(WORLD, WEB, 1000, 80), tcp4(WORLD, WEB, 1000, 80, ACK), packet(WORLD, WEB, 1, icmp(8, 0, 7))]
        for frame in frames:
            scene.send(WORKLOAD_IN, frame)
        scene.send(WORKLOAD_OUT, tcp4(WEB, WORLD, 80, 1000, ACK))
        scene.send(WORKLOAD_IN, tcp4(WORLD, WEB, 1000, 8080))
        sizes = [40, 40, 28, 40]  # from the IP header on
        assert scene.rules()[INGRESS] == (4, sum(sizes), 2)
        assert scene.rules()["web.friends"] == (0, 0, 0)
