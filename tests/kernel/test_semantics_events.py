"""Events: what rules and defaults log, what the operator chose, and how often (semantics 3, "Log", "Audit")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cases.scene import UPLINK_IN, UPLINK_OUT, At, Scene
from packets_differential import Place

from policyc.artifact.layout import DENIAL, Events
from tests.reference.frames import ether, icmp, ipv4, raw, tcp, udp

pytestmark = pytest.mark.bpf

POLICY = """
policy web for { app == web } {
  ingress { allow from any on tcp/80, udp/53 as quiet
            allow from any on tcp/81, icmp/13 log as logged
            deny  from any on tcp/82 as refused
            deny  from any on tcp/83 log as told }
  egress default deny log {}
}
policy soon for { app == web } audit { ingress { deny from any on tcp/80 priority 1 as would-be-cut } }
"""
WHO = "web 10.0.0.1 app=web"
WEB, WORLD = "10.0.0.1", "203.0.113.9"
NONE, DENIED, ALL = Events.NONE, Events.DENIED, Events.ALL


@pytest.fixture(scope="module")
def loaded(place: Place) -> Iterator[Scene]:
    with Scene(place, POLICY, WHO) as scene:
        yield scene


def syn(port: int, flags: int = 2) -> bytes:
    return ether(ipv4(WORLD, WEB, 6, tcp(1000, port, flags)))


LEAVES = ether(ipv4(WEB, WORLD, 17, udp(9, 9)))
CASES: list[tuple[str, At, bytes, set[Events]]] = [
    ("a connection that a rule with log allows", UPLINK_IN, syn(81), {NONE, DENIED, ALL}),
    ("a connection that a rule without log allows", UPLINK_IN, ether(ipv4(WORLD, WEB, 17, udp(9, 53))), {ALL}),
    ("what a rule without log denies", UPLINK_IN, syn(82), {DENIED, ALL}),
    ("what a rule with log denies", UPLINK_IN, syn(83), {NONE, DENIED, ALL}),
    ("what a default without log denies", UPLINK_IN, syn(84), {DENIED, ALL}),
    ("what a default with log denies", UPLINK_OUT, LEAVES, {NONE, DENIED, ALL}),
    ("what audit would change", UPLINK_IN, syn(80), {NONE, DENIED, ALL}),
    ("what cannot be parsed", UPLINK_IN, ether(ipv4(WORLD, WEB, 6, b"")), {DENIED, ALL}),
    ("what is not judged", UPLINK_IN, ether(bytes(30), kind=b"\x08\x06"), set()),
    ("what has no subject", UPLINK_OUT, ether(ipv4(WORLD, WEB, 6, tcp(1, 2))), set()),
]


@pytest.mark.parametrize("chosen", [NONE, DENIED, ALL], ids=lambda e: e.name.lower())
@pytest.mark.parametrize(("at", "frame", "told"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_is_told(loaded: Scene, chosen: Events, at: At, frame: bytes, told: set[Events]) -> None:
    loaded.bind()
    loaded.configure(events=chosen)
    _, event = loaded.send(at, frame)
    assert (event is not None) == (chosen in told)


@pytest.mark.parametrize("chosen", [NONE, DENIED, ALL], ids=lambda e: e.name.lower())
def test_a_connection_is_told_once(loaded: Scene, chosen: Events) -> None:
    loaded.bind()
    loaded.configure(events=chosen)
    assert loaded.send(UPLINK_IN, syn(81))[1] is not None
    answer = ether(ipv4(WEB, WORLD, 6, tcp(81, 1000, 18)))
    for at, frame in ((UPLINK_OUT, answer), (UPLINK_IN, syn(81, 16)), (UPLINK_OUT, answer), (UPLINK_IN, syn(81, 17))):
        code, event = loaded.send(at, frame)
        assert (code, event) == (0xFFFFFFFF, None)


def test_denied_packets_of_a_flow_are_told_once_a_second_with_a_count(loaded: Scene) -> None:
    loaded.bind()
    loaded.configure(events=DENIED)
    assert _count(loaded) == 1
    for _ in range(5):
        assert loaded.send(UPLINK_IN, syn(82))[1] is None
    # Another flow is not held back by this one.
    assert loaded.send(UPLINK_IN, ether(ipv4(WORLD, WEB, 6, tcp(1001, 82))))[1] is not None
    _a_second_later(loaded)
    assert _count(loaded) == 6
    _a_second_later(loaded)
    assert _count(loaded) == 1


def _count(scene: Scene) -> int:
    """The packets that the event of one more denied packet stands for."""
    event = scene.send(UPLINK_IN, syn(82))[1]
    assert event is not None
    return int(event["count"])


def _a_second_later(scene: Scene) -> None:
    table = scene.kernel.map("denials")
    for key in list(table.keys()):
        time_ns, count, rest = DENIAL.unpack(table.lookup(key) or b"")
        table.update(key, DENIAL.pack(time_ns - 10**9, count, rest))


def test_what_logs_without_a_connection_is_told_once_a_second(loaded: Scene) -> None:
    loaded.bind()
    loaded.configure(events=NONE)
    stamp = ether(ipv4(WORLD, WEB, 1, icmp(13)))
    assert [loaded.send(UPLINK_IN, stamp)[1] is not None for _ in range(3)] == [True, False, False]


def test_a_default_that_logs_tells_each_flow(loaded: Scene) -> None:
    loaded.bind()
    loaded.configure(events=NONE)
    assert [loaded.send(UPLINK_OUT, LEAVES)[1] is not None for _ in range(3)] == [True, False, False]


def test_an_event_names_both_ends_the_rule_and_the_reason(loaded: Scene) -> None:
    loaded.bind()
    loaded.configure(events=DENIED)
    event: dict[str, Any] | None = loaded.send(UPLINK_IN, syn(83))[1]
    assert event is not None
    assert (event["source"][:4], event["destination"][:4]) == (raw(WORLD), raw(WEB))
    assert (event["source_port"], event["destination_port"]) == ((1000).to_bytes(2), (83).to_bytes(2))
    assert (event["protocol"], event["family"], event["length"], event["count"]) == (6, 4, 40, 1)
    assert (event["subject"], event["peer"], event["peer_class"]) == (2, 0, 1)
    assert loaded.refs[event["rank"]] == "web.told"
    assert event["ifindex"] == loaded.place.devices["uplink"]


@pytest.mark.parametrize(("kind", "code"), [(3, 4), (0, 0), (0, 1), (13, 0)])
def test_an_icmp_event_has_type_and_code_in_the_ports(loaded: Scene, kind: int, code: int) -> None:
    loaded.bind()
    loaded.configure(events=Events.TRACE)
    event = loaded.send(UPLINK_IN, ether(ipv4(WORLD, WEB, 1, icmp(kind, code, 0x0304))))[1]
    assert event is not None
    assert (event["source_port"], event["destination_port"]) == (bytes([kind, code]), b"\0\0")


def test_events_that_find_the_buffer_full_are_counted_and_judging_goes_on(loaded: Scene) -> None:
    from policyc.runtime import testrun

    loaded.bind()
    loaded.configure(events=Events.TRACE)
    lost = loaded.kernel.map("lost")
    before = lost.sum_cpus(lost.read_array()[0])[0]
    program, device = loaded.kernel.programs[UPLINK_IN.hook], loaded.place.devices["uplink"]
    result = testrun.run_skb(program, syn(82), ifindex=device, repeat=2000)
    assert result.code == 2
    assert lost.sum_cpus(lost.read_array()[0])[0] > before
    loaded.check(UPLINK_IN, syn(82), "deny rule web.refused")
