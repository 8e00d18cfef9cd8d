"""Fragments, extension headers and what cannot be parsed (semantics 2 and 3), for subjects that a policy selects and for others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cases.scene import CGROUP_IN, UPLINK_IN, UPLINK_OUT, UPLINK_XDP, WORKLOAD_IN, WORKLOAD_OUT, Scene, said
from packets_differential import Place

from tests.reference.frames import ether, extension, fragment, icmp, ipv4, ipv6, sctp, tcp, udp

pytestmark = pytest.mark.bpf

POLICY = """
policy web for { app == web } {
  ingress { allow from any on tcp/80, udp as web
            allow from 203.0.113.0/24, 2001:db9::/32 on proto 47, icmp/8, icmpv6/128 as more }
}
policy all-tcp for { app == proto } { ingress { allow from any on tcp, sctp/9 } }
policy levels for { app == levels } { ingress {
  allow from 203.0.113.0/24 on tcp priority 10 as early
  deny  from any on tcp/22 priority 20 as late
  allow from 198.51.100.0/24 on tcp priority 30 as after
  deny  from any on udp/53 priority 40
  pass  from any on udp priority 50 } }
policy below for { app == levels } tier baseline { ingress { deny from any on udp/99 priority 1  allow from any on udp priority 2 } }
policy deny-all for { app == closed } { ingress { deny from any  allow from any on tcp/80 } }
policy out for { app == out } { egress { allow to any on tcp/80 } }
policy later for { app == later } audit { ingress { allow from any on tcp/80  deny from any on udp } }
"""
WHO = """
web    10.0.0.1 2001:db8::1 app=web
proto  10.0.0.2 app=proto
levels 10.0.0.3 app=levels
closed 10.0.0.4 app=closed
out    10.0.0.5 app=out
later  10.0.0.6 app=later
free   10.0.0.7 2001:db8::7
"""
WEB, PROTO, LEVELS, CLOSED, OUT, LATER, FREE = (f"10.0.0.{n}" for n in range(1, 8))
WORLD, OTHER, WEB6, FREE6, WORLD6 = "203.0.113.9", "198.51.100.9", "2001:db8::1", "2001:db8::7", "2001:db9::9"
INS = (UPLINK_IN, UPLINK_XDP)
HOP, ROUTING, FRAGMENT, DEST, TCP, UDP, SCTP = 0, 43, 44, 60, 6, 17, 132
MALFORMED, FRAGMENTED, DEFAULT = "deny malformed", "deny fragment", "deny default"


@pytest.fixture(scope="module")
def loaded(place: Place) -> Iterator[Scene]:
    with Scene(place, POLICY, WHO) as scene:
        yield scene


@pytest.fixture
def scene(loaded: Scene) -> Scene:
    loaded.bind()
    return loaded


def part4(
    dst: str, protocol: int, payload: bytes, offset: int = 0, more: bool = False, number: int = 7, src: str = WORLD
) -> bytes:
    return ether(ipv4(src, dst, protocol, payload, offset=offset, more=more, number=number))


def part6(
    dst: str, protocol: int, payload: bytes, offset: int = 0, more: bool = False, number: int = 7, src: str = WORLD6
) -> bytes:
    return ether(ipv6(src, dst, FRAGMENT, fragment(protocol, payload, offset=offset, more=more, number=number)))


Part = type(part4)


@pytest.fixture(params=[(part4, WEB), (part6, WEB6)], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> tuple[Part, str]:
    return request.param  # type: ignore[no-any-return]


# --- order ------------------------------------------------------------------------------------------------------


def test_a_later_fragment_follows_its_first(scene: Scene, family: tuple[Part, str]) -> None:
    part, web = family
    scene.check(UPLINK_IN, part(web, TCP, tcp(1000, 80), more=True), "allow rule web.web")
    scene.check(UPLINK_IN, part(web, TCP, b"x" * 16, 3, more=True), "allow rule web.web")
    scene.check(UPLINK_XDP, part(web, TCP, b"x" * 16, 5), "allow rule web.web")
    scene.check(UPLINK_IN, part(web, TCP, tcp(1000, 22), more=True, number=8), DEFAULT)
    scene.check(UPLINK_IN, part(web, TCP, b"x" * 16, 3, number=8), DEFAULT)


def test_a_later_fragment_of_a_known_connection_follows_its_first(scene: Scene, family: tuple[Part, str]) -> None:
    part, web = family
    scene.check(UPLINK_IN, part(web, TCP, tcp(1000, 80)), "allow rule web.web")
    scene.check(UPLINK_IN, part(web, TCP, tcp(1000, 80, 16), more=True), "allow established web.web")
    scene.check(UPLINK_IN, part(web, TCP, b"x" * 16, 3), "allow established web.web")


def test_the_first_alone_tells_what_audit_would_change(scene: Scene) -> None:
    scene.check(UPLINK_IN, part4(LATER, UDP, udp(1, 2), more=True), "allow no-policy ~ deny rule later.ingress.2")
    scene.check(UPLINK_IN, part4(LATER, UDP, b"x" * 8, 3), "allow no-policy")


@pytest.mark.parametrize("change", ["source", "number", "protocol", "direction"])
def test_only_fragments_of_the_same_packet_follow(scene: Scene, change: str) -> None:
    scene.check(UPLINK_IN, part4(WEB, TCP, tcp(1000, 80), more=True), "allow rule web.web")
    if change == "source":
        scene.check(UPLINK_IN, part4(WEB, TCP, b"x" * 16, 3, src=OTHER), FRAGMENTED)
    elif change == "number":
        scene.check(UPLINK_IN, part4(WEB, TCP, b"x" * 16, 3, number=8), FRAGMENTED)
    elif change == "protocol":
        scene.check(UPLINK_IN, part4(WEB, SCTP, b"x" * 16, 3), DEFAULT)
    else:
        scene.check(UPLINK_OUT, part4(WORLD, TCP, b"x" * 16, 3, src=WEB), "allow default")
        scene.check(UPLINK_OUT, part4(WEB, TCP, b"x" * 16, 3, src=OUT), FRAGMENTED)


def test_in_ipv6_the_first_fragment_alone_tells_the_protocol(scene: Scene) -> None:
    """RFC 8200 4.5: the next header of later fragments may differ and is ignored when the packet is put together."""
    scene.check(UPLINK_IN, part6(WEB6, TCP, tcp(1000, 80), more=True), "allow rule web.web")
    scene.check(UPLINK_IN, part6(WEB6, UDP, b"x" * 16, 3), "allow rule web.web")
    scene.check(UPLINK_IN, part6(WEB6, TCP, tcp(1000, 22), more=True), DEFAULT)
    scene.check(UPLINK_IN, part6(WEB6, UDP, b"x" * 16, 3), DEFAULT)


def test_the_last_first_fragment_of_a_number_counts(scene: Scene, family: tuple[Part, str]) -> None:
    part, web = family
    for port, expected in ((80, "allow rule web.web"), (22, DEFAULT), (80, "allow rule web.web")):
        scene.check(UPLINK_IN, part(web, TCP, tcp(1000, port), more=True), expected)
        scene.check(UPLINK_IN, part(web, TCP, b"x" * 8, 3), expected)


def test_a_first_fragments_verdict_ends_with_its_time_and_with_a_change(scene: Scene) -> None:
    scene.check(UPLINK_IN, part4(WEB, TCP, tcp(1000, 80), more=True), "allow rule web.web")
    scene.age(29)
    scene.check(UPLINK_IN, part4(WEB, TCP, b"x" * 8, 3), "allow rule web.web")
    scene.age(3)
    scene.check(UPLINK_IN, part4(WEB, TCP, b"x" * 8, 3), FRAGMENTED)
    scene.check(UPLINK_IN, part4(WEB, TCP, tcp(1000, 80), more=True, number=8), "allow rule web.web")
    scene.new_generation()
    scene.check(UPLINK_IN, part4(WEB, TCP, b"x" * 8, 3, number=8), FRAGMENTED)


# --- without the first --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dst", "src", "protocol", "expected"),
    [
        # if a rule that names a port could match, it is denied
        (WEB, WORLD, TCP, FRAGMENTED),
        (WEB, WORLD, 1, FRAGMENTED),  # an ICMP type is named, too
        (WEB, OTHER, 1, DEFAULT),  # by a rule that is not for this peer
        # a rule for the whole protocol matches
        (WEB, WORLD, UDP, "allow rule web.web"),
        (PROTO, WORLD, TCP, "allow rule all-tcp.ingress.1"),
        (PROTO, WORLD, SCTP, FRAGMENTED),
        # a protocol without ports
        (WEB, WORLD, 47, "allow rule web.more"),
        (WEB, WORLD, 50, DEFAULT),
        # at the deciding level or before it
        (LEVELS, WORLD, TCP, "allow rule levels.early"),
        (LEVELS, OTHER, TCP, FRAGMENTED),
        (LEVELS, "192.0.2.9", TCP, FRAGMENTED),
        # before a pass, and in the tier that it leads to
        (LEVELS, WORLD, UDP, FRAGMENTED),
        # at the deciding level itself, although a deny for the protocol would win
        (CLOSED, WORLD, TCP, FRAGMENTED),
        (CLOSED, WORLD, UDP, "deny rule deny-all.ingress.1"),
        # nobody isolates, nobody names
        (OUT, WORLD, TCP, "allow default"),
        (FREE, WORLD, TCP, "allow no-policy"),
        # audited rules count for the prospective verdict alone
        (LATER, WORLD, TCP, "allow no-policy ~ deny fragment"),
        (LATER, WORLD, UDP, "allow no-policy ~ deny rule later.ingress.2"),
    ],
)  # fmt: skip
def test_without_its_first_it_is_judged_as_a_packet_without_port(
    scene: Scene, dst: str, src: str, protocol: int, expected: str
) -> None:
    for at in INS:
        scene.check(at, part4(dst, protocol, b"x" * 16, 1, src=src), expected)
        scene.check(at, part4(dst, protocol, b"", 8191, src=src), expected)


def test_a_later_fragment_opens_no_connection(scene: Scene) -> None:
    scene.check(UPLINK_IN, part4(PROTO, TCP, tcp(1000, 80), 1), "allow rule all-tcp.ingress.1")
    assert not list(scene.kernel.map("ct4").keys())


# --- extension headers --------------------------------------------------------------------------------------------


def chain(*kinds: int, last: int = TCP, payload: bytes = b"", units: int = 0) -> tuple[int, bytes]:
    """What the fixed header names, and the headers of these kinds before `payload`."""
    protocol = last
    for kind in reversed(kinds):
        payload, protocol = extension(protocol, payload, units=units), kind
    return protocol, payload


@pytest.mark.parametrize(
    ("kinds", "units", "expected"),
    [
        ((HOP,), 0, "allow rule web.web"),
        ((ROUTING,), 0, "allow rule web.web"),
        ((DEST,), 0, "allow rule web.web"),
        ((HOP, DEST, ROUTING, DEST), 3, "allow rule web.web"),
        ((DEST,) * 8, 0, "allow rule web.web"),
        ((HOP,) * 8, 1, "allow rule web.web"),
        ((DEST,) * 9, 0, MALFORMED),
        ((DEST,), 255, MALFORMED),  # longer than the packet
    ],
)
def test_the_protocol_follows_up_to_8_extension_headers(
    scene: Scene, kinds: tuple[int, ...], units: int, expected: str
) -> None:
    protocol, payload = chain(*kinds, payload=tcp(1000, 80), units=min(units, 3))
    if units == 255:
        payload = bytes([payload[0], 255]) + payload[2:]
    for at in INS:
        scene.forget()
        scene.check(at, ether(ipv6(WORLD6, WEB6, protocol, payload)), expected)
    denied = chain(*kinds, payload=tcp(1000, 22), units=min(units, 3))
    if expected != MALFORMED:
        scene.check(UPLINK_IN, ether(ipv6(WORLD6, WEB6, *denied)), DEFAULT)


@pytest.mark.parametrize("kind", [50, 51, 59, 135, 139, 140, 253])
def test_other_headers_end_the_chain_and_are_the_protocol(scene: Scene, kind: int) -> None:
    scene.check(UPLINK_IN, ether(ipv6(WORLD6, WEB6, kind, extension(TCP, tcp(1000, 80)))), DEFAULT)


def test_extension_headers_are_of_ipv6_only(scene: Scene) -> None:
    for kind in (HOP, ROUTING, DEST, FRAGMENT):
        scene.check(UPLINK_IN, ether(ipv4(WORLD, WEB, kind, extension(TCP, tcp(1000, 80)))), DEFAULT)


def test_an_atomic_fragment_is_whole(scene: Scene) -> None:
    scene.check(UPLINK_IN, part6(WEB6, TCP, tcp(1000, 80)), "allow rule web.web")
    scene.check(UPLINK_OUT, ether(ipv6(WEB6, WORLD6, TCP, tcp(80, 1000, 16))), "allow established web.web")
    # It is nobody's first fragment.
    scene.check(UPLINK_IN, part6(WEB6, TCP, b"x" * 8, 3), FRAGMENTED)


def test_fragment_headers_within_each_other(scene: Scene) -> None:
    def nested(*headers: tuple[bool, int, int], payload: bytes) -> bytes:
        """(more, offset, number) from the outside."""
        protocol = TCP
        for more, offset, number in reversed(headers):
            payload, protocol = fragment(protocol, payload, more=more, offset=offset, number=number), FRAGMENT
        return ether(ipv6(WORLD6, WEB6, FRAGMENT, payload))

    # atomic and real: the real one counts
    scene.check(UPLINK_IN, nested((False, 0, 1), (True, 0, 2), payload=tcp(1000, 80)), "allow rule web.web")
    scene.check(UPLINK_IN, nested((False, 0, 1), (False, 3, 2), payload=b"x" * 8), "allow rule web.web")
    scene.check(UPLINK_IN, nested((False, 0, 2), (False, 3, 1), payload=b"x" * 8), FRAGMENTED)
    scene.check(UPLINK_IN, nested((True, 0, 3), (False, 0, 4), payload=tcp(1000, 80)), "allow rule web.web")
    scene.check(UPLINK_IN, part6(WEB6, TCP, b"x" * 8, 3, number=3), "allow rule web.web")
    # first and later: a later one
    scene.check(UPLINK_IN, nested((True, 0, 5), (False, 3, 6), payload=tcp(1000, 80)), FRAGMENTED)
    # What is beneath a later fragment is payload.
    scene.check(UPLINK_IN, nested((False, 3, 7), (True, 0, 8), payload=tcp(1000, 80)), MALFORMED)
    # Nine of them are too many.
    scene.check(UPLINK_IN, nested(*[(False, 0, 1)] * 9, payload=tcp(1000, 80)), MALFORMED)


def test_a_later_fragment_before_an_extension_header_needs_its_first(scene: Scene) -> None:
    later = part6(WEB6, DEST, extension(TCP, tcp(1000, 80)), 2)
    scene.check(UPLINK_IN, later, MALFORMED)
    scene.check(UPLINK_IN, part6(WEB6, DEST, extension(TCP, tcp(1000, 80)), more=True), "allow rule web.web")
    scene.check(UPLINK_IN, later, "allow rule web.web")
    scene.check(UPLINK_IN, part6(FREE6, DEST, b"x" * 16, 2), "allow no-policy")


# --- what cannot be parsed ----------------------------------------------------------------------------------------


def cut(payload: bytes, size: int) -> bytes:
    return payload[:size]


BROKEN4 = [
    # heads of L4 cut by the packet's end
    *((protocol, payload[:-1], {}) for protocol, payload in ((TCP, tcp(1, 80)), (UDP, udp(1, 80)), (SCTP, sctp(1, 9)), (1, icmp(8)), (58, icmp(128)))),
    (TCP, b"", {}),
    # or by the length that the IP header states
    (TCP, tcp(1, 80), {"total": 39}),
    (UDP, udp(1, 80), {"total": 27}),
    (TCP, tcp(1, 80), {"total": 20}),
    # a data offset below 5
    (TCP, tcp(1, 80, words=4), {}),
    (TCP, tcp(1, 80, words=0), {}),
    # a first fragment needs its head as well: the tiny fragment
    (TCP, tcp(1, 80)[:8], {"more": True}),
    (UDP, b"", {"more": True}),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "payload", "head"), BROKEN4, ids=said)
def test_what_cannot_be_parsed_is_denied_for_whom_a_policy_selects(
    scene: Scene, protocol: int, payload: bytes, head: dict[str, int]
) -> None:
    for dst, expected in (
        (WEB, MALFORMED),
        (OUT, MALFORMED),
        (FREE, "allow no-policy"),
        (LATER, "allow no-policy ~ deny malformed"),
    ):
        for at in INS:
            scene.check(at, ether(ipv4(WORLD, dst, protocol, payload, **head)), expected)  # type: ignore[arg-type]
    for name, expected in (("web", MALFORMED), ("free", "allow no-policy")):
        scene.bind(workload=name, inner=name)
        frame = ether(ipv4(WORLD, WEB, protocol, payload, **head))  # type: ignore[arg-type]
        scene.check(WORKLOAD_IN, frame, expected)
        scene.check(CGROUP_IN, frame, expected)
        # a source that is not its own is said first
        scene.check(WORKLOAD_OUT, frame, "deny spoofed-source")


@pytest.mark.parametrize(
    "payload",
    [
        (TCP, tcp(1, 80)[:-1]),
        (58, icmp(128)[:-1]),
        (DEST, b""),
        (DEST, bytes([TCP, 0, 0, 0])),
        (FRAGMENT, bytes(7)),
        (DEST, bytes([TCP, 1]) + bytes(6)),
        (DEST, extension(TCP, tcp(1, 80)[:-1])),
        (HOP, extension(FRAGMENT, fragment(TCP, tcp(1, 80)[:8], more=True))),
    ],
    ids=said,
)
def test_what_cannot_be_parsed_in_ipv6(scene: Scene, payload: tuple[int, bytes]) -> None:
    for dst, expected in ((WEB6, MALFORMED), (FREE6, "allow no-policy")):
        for at in INS:
            scene.check(at, ether(ipv6(WORLD6, dst, *payload)), expected)
    short = ether(ipv6(WORLD6, WEB6, TCP, tcp(1, 80), length=19))
    scene.check(UPLINK_IN, short, MALFORMED)


NO_ADDRESSES = [
    ether(ipv4(WORLD, WEB, TCP, tcp(1, 80), version=5)),
    ether(ipv4(WORLD, WEB, TCP, tcp(1, 80), version=6), kind=b"\x08\x00"),
    ether(ipv4(WORLD, WEB, TCP, tcp(1, 80), ihl=4)),
    ether(ipv4(WORLD, WEB, TCP, tcp(1, 80), ihl=0)),
    ether(ipv4(WORLD, WEB, TCP, b"", ihl=15)),
    ether(ipv4(WORLD, WEB, TCP, tcp(1, 80), total=19)),
    ether(ipv4(WORLD, WEB, TCP, tcp(1, 80), total=0)),
    ether(ipv4(WORLD, WEB, TCP, tcp(1, 80), options=bytes(8), total=24)),
    ether(ipv6(WORLD6, WEB6, TCP, tcp(1, 80)), kind=b"\x08\x00"),
    ether(b"\x40" + ipv6(WORLD6, WEB6, TCP, tcp(1, 80))[1:], kind=b"\x86\xdd"),
    ether(ipv4(WORLD, WEB, TCP, tcp(1, 80)) + bytes(40), kind=b"\x86\xdd"),
]


@pytest.mark.parametrize("frame", NO_ADDRESSES, ids=said)
def test_where_no_addresses_can_be_read_an_uplink_denies_and_a_workload_knows_its_subject(
    scene: Scene, frame: bytes
) -> None:
    for at in (UPLINK_IN, UPLINK_XDP, UPLINK_OUT):
        scene.check(at, frame, MALFORMED)
    for name, expected in (("web", MALFORMED), ("free", "allow no-policy")):
        scene.bind(workload=name)
        scene.check(WORKLOAD_IN, frame, expected)
        scene.check(WORKLOAD_OUT, frame, expected)


def test_at_an_uplink_a_broken_head_of_nobody_is_not_judged(scene: Scene) -> None:
    scene.check(UPLINK_IN, ether(ipv4(WORLD, OTHER, TCP, b"")), "allow no-subject")


def test_later_fragments_of_a_malformed_first_are_denied_as_it_was(scene: Scene, family: tuple[Part, str]) -> None:
    part, web = family
    scene.check(UPLINK_IN, part(web, UDP, udp(1, 2)[:4], more=True), MALFORMED)
    scene.check(UPLINK_IN, part(web, UDP, b"x" * 8, 1), MALFORMED)


def test_options_and_lengths_that_are_in_order(scene: Scene) -> None:
    scene.check(UPLINK_IN, ether(ipv4(WORLD, WEB, TCP, tcp(1, 80), options=bytes(40))), "allow rule web.web")
    scene.check(UPLINK_IN, ether(ipv4(WORLD, WEB, TCP, tcp(2, 80), total=9000)), "allow rule web.web")
    scene.check(
        UPLINK_IN, ether(ipv4(WORLD, WEB, TCP, tcp(3, 80)) + bytes(6)), "allow rule web.web"
    )  # padding of Ethernet
    scene.check(
        UPLINK_IN, ether(ipv4(WORLD, WEB, TCP, tcp(4, 80, words=15))), "allow rule web.web"
    )  # TCP options not there


def test_a_head_in_the_padding_behind_the_packet_is_none(scene: Scene) -> None:
    scene.check(UPLINK_IN, ether(ipv4(WORLD, WEB, TCP, b"", total=20) + tcp(1, 80)), MALFORMED)
    scene.check(UPLINK_IN, ether(ipv6(WORLD6, WEB6, TCP, b"", length=0) + tcp(1, 80)), MALFORMED)
