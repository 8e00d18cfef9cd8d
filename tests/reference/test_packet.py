"""The reference's packet parser: what is IP, what is malformed, what is a fragment, what an error quotes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.reference.packet import NOT_IP, FragmentKind, Malformed, Packet, Quote, parse
from policyc.reference.verdict import Traffic
from tests.reference import frames as f
from tests.reference.builders import addr

A, B, A6, B6 = "10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"
Q, AD = b"\x81\x00", b"\x88\xa8"


def packet(frame: bytes, **more: object) -> Packet:
    parsed = parse(frame, **more)  # type: ignore[arg-type]
    assert isinstance(parsed, Packet), parsed
    return parsed


@pytest.mark.parametrize(
    ("payload", "protocol", "traffic"),
    [
        (f.tcp(1, 80), 6, Traffic(6, 80)),
        (f.udp(1, 53), 17, Traffic(17, 53)),
        (f.sctp(1, 9), 132, Traffic(132, 9)),
        (f.icmp(8), 1, Traffic(1, icmp_type=8, icmp_code=0)),
        (f.icmp(128), 58, Traffic(58, icmp_type=128, icmp_code=0)),
        (b"", 112, Traffic(112)),
        (b"", 59, Traffic(59)),
        (b"", 51, Traffic(51)),
    ],
)
def test_protocols_in_both_ip_versions(payload: bytes, protocol: int, traffic: Traffic) -> None:
    for ip in (f.ipv4(A, B, protocol, payload), f.ipv6(A6, B6, protocol, payload)):
        assert packet(f.ether(ip)).traffic == traffic
        assert packet(ip, ethertype=0x86DD if ip[0] >> 4 == 6 else 0x0800).traffic == traffic


def test_addresses_ports_and_flags() -> None:
    parsed = packet(f.ether(f.ipv4(A, B, 6, f.tcp(1234, 80, 0x12))))
    assert (parsed.head.source, parsed.head.destination) == (addr(A), addr(B))
    assert (parsed.source_port, parsed.destination_port, parsed.tcp_flags) == (1234, 80, 0x12)
    assert not parsed.opens
    assert packet(f.ether(f.ipv4(A, B, 6, f.tcp(1, 80)))).opens


@pytest.mark.parametrize("kind", [b"\x08\x06", b"\x00\x40", b"\x91\x00"])
def test_other_ethertypes_are_not_ip(kind: bytes) -> None:
    assert parse(f.ether(b"", kind=kind)) is NOT_IP


def test_up_to_two_tags_are_skipped() -> None:
    ip = f.ipv4(A, B, 6, f.tcp(1, 80))
    for tags in ((Q,), (AD, Q), (Q, Q)):
        assert packet(f.ether(ip, *tags)).traffic.port == 80
    assert parse(f.ether(ip, Q, Q, Q)) == Malformed()
    assert parse(f.ether(ip, Q, Q), tagged=True) == Malformed()
    assert packet(f.ether(ip, Q), tagged=True).traffic.port == 80
    assert parse(f.ether(b"", Q, kind=b"\x08\x06")) is NOT_IP
    assert parse(b"\x02" * 12 + Q + b"\x00") == Malformed()


@pytest.mark.parametrize(
    "frame",
    [
        b"", b"\x00" * 13, f.ether(b""), f.ether(b"\x45" * 19),
        f.ether(f.ipv4(A, B, 6, f.tcp(1, 80), ihl=4)),
        f.ether(f.ipv4(A, B, 6, f.tcp(1, 80), version=6), kind=f.ETHER_IPV4),
        f.ether(f.ipv4(A, B, 6, f.tcp(1, 80), total=0)),
        f.ether(f.ipv4(A, B, 6, f.tcp(1, 80), total=19)),
        f.ether(f.ipv4(A, B, 112, b"", ihl=6, total=24)),  # the options are not there
        f.ether(f.ipv6(A6, B6, 6, f.tcp(1, 80))[:39]),
        f.ether(f.ipv4(A, B, 6, f.tcp(1, 80)), kind=f.ETHER_IPV6),
    ],
)  # fmt: skip
def test_bad_ip_headers_leave_no_addresses(frame: bytes) -> None:
    assert parse(frame) == Malformed()


def extensions(count: int) -> bytes:
    payload = f.udp(1, 53)
    for number in range(count):
        payload = f.extension(17 if number == 0 else 60, payload, units=number % 2)
    return f.ether(f.ipv6(A6, B6, 60 if count else 17, payload))


def test_up_to_eight_extension_headers() -> None:
    assert all(packet(extensions(n)).traffic == Traffic(17, 53) for n in range(9))
    assert isinstance(parse(extensions(9)), Malformed)


@pytest.mark.parametrize(
    "ip",
    [
        f.ipv4(A, B, 6, f.tcp(1, 80)[:19]),
        f.ipv4(A, B, 6, f.tcp(1, 80), total=39),
        f.ipv4(A, B, 6, f.tcp(1, 80, words=4)),
        f.ipv4(A, B, 17, f.udp(1, 53)[:7]),
        f.ipv4(A, B, 132, f.sctp(1, 9)[:11]),
        f.ipv4(A, B, 1, f.icmp(8)[:7]),
        f.ipv4(A, B, 6, f.tcp(1, 80)[:8], more=True),
        f.ipv6(A6, B6, 6, f.tcp(1, 80), length=19),
        f.ipv6(A6, B6, 60, f.extension(6, f.tcp(1, 80), units=9)[:40]),
        f.ipv6(A6, B6, 44, f.fragment(6, b"", more=False)[:7]),
    ],
)
def test_what_lacks_its_l4_head_is_malformed_with_addresses(ip: bytes) -> None:
    parsed = parse(f.ether(ip))
    assert isinstance(parsed, Malformed)
    assert parsed.head is not None


def test_what_follows_the_total_length_is_no_part_of_the_packet() -> None:
    assert isinstance(parse(f.ether(f.ipv4(A, B, 17, f.udp(1, 53), total=27))), Malformed)
    assert packet(f.ether(f.ipv4(A, B, 17, f.udp(1, 53), total=28) + b"trailer")).traffic.port == 53


def test_extension_headers_are_of_ipv6_only() -> None:
    assert packet(f.ether(f.ipv4(A, B, 60, f.extension(6, b"")))).traffic == Traffic(60)


@pytest.mark.parametrize(
    ("ip", "kind", "traffic"),
    [
        (f.ipv4(A, B, 6, f.tcp(1, 80), more=True), FragmentKind.FIRST, Traffic(6, 80)),
        (f.ipv4(A, B, 6, b"", offset=3), FragmentKind.LATER, Traffic(6, fragment=True)),
        (f.ipv4(A, B, 6, b"", offset=3, more=True), FragmentKind.LATER, Traffic(6, fragment=True)),
        (f.ipv6(A6, B6, 44, f.fragment(17, f.udp(1, 53), more=True)), FragmentKind.FIRST, Traffic(17, 53)),
        (f.ipv6(A6, B6, 44, f.fragment(17, b"", more=False, offset=9)), FragmentKind.LATER, Traffic(17, fragment=True)),
        (f.ipv6(A6, B6, 44, f.fragment(17, f.udp(1, 53), more=False)), FragmentKind.WHOLE, Traffic(17, 53)),  # atomic
        (f.ipv6(A6, B6, 44, f.fragment(60, b"", more=False, offset=9)), FragmentKind.LATER, Traffic(60, fragment=True)),
    ],
)
def test_fragments(ip: bytes, kind: FragmentKind, traffic: Traffic) -> None:
    parsed = packet(f.ether(ip))
    assert (parsed.head.kind, parsed.traffic) == (kind, traffic)


@pytest.mark.parametrize(
    ("kind", "hops", "no_flow"),
    [(133, 255, True), (137, 255, True), (135, 254, False), (138, 255, False), (130, 1, True), (143, 1, True),
     (143, 2, False), (142, 1, False), (128, 255, False)],
)  # fmt: skip
def test_neighbour_discovery_and_mld(kind: int, hops: int, no_flow: bool) -> None:
    assert packet(f.ether(f.ipv6(A6, B6, 58, f.icmp(kind), hops=hops))).is_no_flow is no_flow
    assert not packet(f.ether(f.ipv6(A6, B6, 44, f.fragment(58, f.icmp(kind), more=True), hops=hops))).is_no_flow
    assert not packet(f.ether(f.ipv4(A, B, 58, f.icmp(kind)))).is_no_flow


def quoting(kind: int, quoted: bytes) -> Quote | None:
    return packet(f.ether(f.ipv4("9.9.9.9", A, 1, f.icmp(kind, rest=quoted)))).quote


def test_quotes() -> None:
    sent = f.ipv4(A, B, 6, f.tcp(1234, 80)[:8], total=1500)
    expected = Quote(addr(A), addr(B), 1234, 80, 6)
    assert [quoting(kind, sent) for kind in (3, 11, 12)] == [expected] * 3
    assert [quoting(kind, sent) for kind in (0, 4, 5, 8)] == [None] * 4
    assert quoting(3, f.ipv4(A, B, 1, f.icmp(8, identifier=7))) == Quote(addr(A), addr(B), 7, 7, 1)
    assert quoting(3, f.ipv4(A, B, 1, f.icmp(13))) is None
    assert quoting(3, f.ipv4(A, B, 112, b"")) == Quote(addr(A), addr(B), 0, 0, 112)
    assert quoting(3, f.ipv4(A, B, 6, f.tcp(1, 2)[:8], offset=1)) is None
    assert quoting(3, f.ipv4(A, B, 6, f.tcp(1, 2)[:7])) is None
    assert quoting(3, sent[:19]) is None
    v6 = f.ipv6(A6, B6, 60, f.extension(17, f.udp(5, 53)))
    parsed = packet(f.ether(f.ipv6("2001:db8::9", A6, 58, f.icmp(1, rest=v6))))
    assert parsed.quote == Quote(addr(A6), addr(B6), 5, 53, 17)


@given(st.binary(max_size=120), st.sampled_from([None, 0x0800, 0x86DD]))
def test_no_bytes_raise(data: bytes, ethertype: int | None) -> None:
    parse(data, ethertype=ethertype)


@given(st.data())
def test_no_damaged_packet_raises(data: st.DataObject) -> None:
    whole = bytearray(extensions(3) if data.draw(st.booleans()) else f.ether(f.ipv4(A, B, 6, f.tcp(1, 80)), Q))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    parse(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
