"""Where a packet is judged and for whom (semantics 3, "Where judged"): attach points, sides, subjects, sources, states of a load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cases.scene import (
    CGROUP_IN,
    CGROUP_LOOPBACK_IN,
    CGROUP_LOOPBACK_OUT,
    CGROUP_OUT,
    EMPTY_IN,
    EMPTY_OUT,
    EMPTY_XDP,
    UNKNOWN_IN,
    UNKNOWN_OUT,
    UNKNOWN_XDP,
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

from policyc.artifact.layout import Events, State
from tests.reference.frames import ether, extension, fragment, icmp, ipv4, ipv6, tcp, udp

pytestmark = pytest.mark.bpf

POLICY = """
policy web for { app == web } {
  ingress { allow from any on tcp/80 }
  egress  { allow to any on udp/53, udp/67, udp/547, tcp/443 }
}
policy job for { app == job } { ingress { allow from any on tcp/81 }  egress { allow to any on tcp/444 } }
policy machine for host { ingress { allow from any on tcp/22 }  egress { allow to any on tcp/25 } }
policy names for { app == roaming } { ingress { allow from host on tcp/80 }  egress { allow to any on tcp/443 } }
"""
WHO = """
web  10.0.0.1 2001:db8::1 fe80::1 app=web
web2 10.0.0.2 app=web
job  10.0.0.3 2001:db8::3 app=job
free 10.0.0.4
roam app=roaming
"""
HOST = "192.0.2.1 2001:db8:ffff::1"
WEB, WEB6, WEB2, JOB, FREE, MACHINE, WORLD, WORLD6 = (
    "10.0.0.1", "2001:db8::1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "192.0.2.1", "203.0.113.9", "2001:db9::9",
)  # fmt: skip
WORKLOAD_OUTS = (WORKLOAD_OUT, WORKLOAD_XDP)
INS, OUTS = (UPLINK_IN, UPLINK_XDP), (UPLINK_OUT,)


@pytest.fixture(scope="module")
def loaded(place: Place) -> Iterator[Scene]:
    with Scene(place, POLICY, WHO, HOST) as scene:
        yield scene


def syn(src: str, dst: str, port: int) -> bytes:
    head = ipv6 if ":" in src else ipv4
    return ether(head(src, dst, 6, tcp(40000, port)))


def datagram(src: str, dst: str, port: int) -> bytes:
    head = ipv6 if ":" in src else ipv4
    return ether(head(src, dst, 17, udp(40000, port)))


def every(scene: Scene, places: tuple[At, ...], frame: bytes, expected: str) -> None:
    for at in places:
        scene.forget()
        scene.check(at, frame, expected)


def test_a_workloads_subject_is_the_bound_endpoint_whatever_addresses_the_packet_carries(loaded: Scene) -> None:
    loaded.bind(workload="web", inner="web")
    for at in (WORKLOAD_IN, CGROUP_IN):
        every(loaded, (at,), syn(WORLD, WEB, 80), "allow rule web.ingress.1")
        every(loaded, (at,), syn(WORLD, JOB, 80), "allow rule web.ingress.1")
        every(loaded, (at,), syn(WORLD, JOB, 81), "deny default")
        every(loaded, (at,), syn(WORLD, "224.0.0.1", 81), "deny default")
        every(loaded, (at,), syn(WORLD, MACHINE, 22), "deny default")
        every(loaded, (at,), syn(WEB, WEB, 80), "allow rule web.ingress.1")


def test_what_arrives_at_the_hosts_end_of_a_link_is_the_workloads_egress(loaded: Scene) -> None:
    loaded.bind(workload="web")
    every(loaded, WORKLOAD_OUTS, syn(WEB, WORLD, 443), "allow rule web.egress.1")
    every(loaded, WORKLOAD_OUTS, syn(WEB, WORLD, 80), "deny default")


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (syn(WEB, WORLD, 443), "allow rule web.egress.1"),
        (syn(WEB6, WORLD6, 443), "allow rule web.egress.1"),
        (syn("fe80::1", "fe80::2", 443), "allow rule web.egress.1"),
        (syn(WEB2, WORLD, 443), "deny spoofed-source"),  # another endpoint's, though with equal labels
        (syn(MACHINE, WORLD, 443), "deny spoofed-source"),
        (syn(WORLD, WEB, 443), "deny spoofed-source"),
        (syn("127.0.0.1", WORLD, 443), "deny spoofed-source"),
        (syn("::ffff:10.0.0.1", WORLD6, 443), "deny spoofed-source"),
        # :: and 0.0.0.0 for address configuration, fe80::/10 towards udp/547
        (datagram("0.0.0.0", "255.255.255.255", 67), "allow rule web.egress.1"),
        (datagram("0.0.0.0", "255.255.255.255", 53), "deny spoofed-source"),
        (datagram("0.0.0.0", "255.255.255.255", 547), "deny spoofed-source"),
        (syn("0.0.0.0", "255.255.255.255", 443), "deny spoofed-source"),
        (datagram("0.0.0.1", "255.255.255.255", 67), "deny spoofed-source"),
        (datagram("::", "ff02::1:2", 547), "allow rule web.egress.1"),
        (datagram("::", "ff02::1:2", 67), "deny spoofed-source"),
        (datagram("fe80::99", "ff02::1:2", 547), "allow rule web.egress.1"),
        (datagram("febf:ffff::1", "ff02::1:2", 547), "allow rule web.egress.1"),
        (datagram("fec0::1", "ff02::1:2", 547), "deny spoofed-source"),
        (datagram("fe7f:ffff::1", "ff02::1:2", 547), "deny spoofed-source"),
        (datagram("fe80::99", "ff02::1:2", 53), "deny spoofed-source"),
        (syn("fe80::99", "ff02::1:2", 443), "deny spoofed-source"),
        # a later fragment shows no port: no exception
        (ether(ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 67), offset=1)), "deny spoofed-source"),
        (ether(ipv6("fe80::99", "ff02::1:2", 44, fragment(17, udp(546, 547), more=False, offset=1))), "deny spoofed-source"),
        # a cut head has none either
        (ether(ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 67)[:4])), "deny spoofed-source"),
    ],
    ids=said,
)  # fmt: skip
def test_what_a_workload_sends_from_a_source_not_its_own_is_denied(loaded: Scene, frame: bytes, expected: str) -> None:
    loaded.bind(workload="web", inner="web")
    every(loaded, (*WORKLOAD_OUTS, CGROUP_OUT), frame, expected)


def test_an_endpoint_without_addresses_owns_those_of_class_host_and_is_the_host_to_others(loaded: Scene) -> None:
    loaded.bind(inner="roam")
    every(loaded, (CGROUP_OUT,), syn(MACHINE, WORLD, 443), "allow rule names.egress.1")
    every(loaded, (CGROUP_OUT,), syn("127.0.0.1", "127.0.0.1", 443), "allow rule names.egress.1")
    every(loaded, (CGROUP_OUT,), syn("2001:db8:ffff::1", WORLD6, 443), "allow rule names.egress.1")
    every(loaded, (CGROUP_OUT,), syn(WEB, WORLD, 443), "deny spoofed-source")
    every(loaded, (CGROUP_OUT,), syn(WORLD, WEB, 443), "deny spoofed-source")
    every(loaded, (CGROUP_IN,), syn(MACHINE, MACHINE, 80), "allow rule names.ingress.1")
    # An endpoint with addresses does not own those of the host.
    loaded.bind(inner="web")
    every(loaded, (CGROUP_OUT,), syn(MACHINE, WORLD, 443), "deny spoofed-source")


def test_at_an_uplink_the_owner_of_the_local_address_is_the_subject(loaded: Scene) -> None:
    loaded.bind()
    every(loaded, INS, syn(WORLD, WEB, 80), "allow rule web.ingress.1")
    every(loaded, INS, syn(WORLD, WEB, 81), "deny default")
    every(loaded, INS, syn(WORLD, JOB, 81), "allow rule job.ingress.1")
    every(loaded, INS, syn(WORLD, MACHINE, 22), "allow rule machine.ingress.1")
    every(loaded, INS, syn(WORLD, MACHINE, 80), "deny default")
    every(loaded, INS, syn(WORLD, FREE, 80), "allow no-policy")
    every(loaded, OUTS, syn(MACHINE, WORLD, 25), "allow rule machine.egress.1")
    every(loaded, OUTS, syn(JOB, WORLD, 443), "deny default")
    every(loaded, OUTS, syn("2001:db8::3", WORLD6, 444), "allow rule job.egress.1")


def test_at_an_uplink_without_a_subject_the_flow_is_not_judged(loaded: Scene) -> None:
    loaded.bind()
    every(loaded, INS, syn(WEB, WORLD, 81), "allow no-subject")
    every(loaded, INS, syn(WORLD, "255.255.255.255", 81), "allow no-subject")
    every(loaded, OUTS, syn(WORLD, WEB, 81), "allow no-subject")
    every(loaded, OUTS, syn("0.0.0.0", WEB, 81), "allow no-subject")


def test_uplinks_do_not_judge_for_bound_endpoints_and_refuse_who_claims_to_be_one(loaded: Scene) -> None:
    loaded.bind(workload="web", elsewhere=["job"])
    every(loaded, INS, syn(WORLD, WEB, 81), "allow no-subject")
    every(loaded, OUTS, syn(JOB, WORLD, 443), "allow no-subject")
    every(loaded, INS, syn(WEB, WEB2, 80), "deny spoofed-source")
    every(loaded, INS, syn("2001:db8::3", WEB6, 80), "deny spoofed-source")
    every(loaded, INS, syn(WEB, WORLD, 80), "deny spoofed-source")
    every(loaded, INS, syn(WEB2, FREE, 80), "allow no-policy")
    # What leaves towards a bound endpoint's address is nobody's forgery.
    every(loaded, OUTS, syn(MACHINE, WEB, 25), "allow rule machine.egress.1")
    # Also inside fragments and broken heads.
    every(loaded, INS, ether(ipv4(WEB, FREE, 6, b"", offset=3)), "deny spoofed-source")
    every(loaded, INS, ether(ipv4(WEB, FREE, 6, b"")), "deny spoofed-source")


@pytest.mark.parametrize("events", [Events.NONE, Events.TRACE])
def test_an_uplink_refuses_who_claims_a_bound_address_also_for_what_a_workloads_point_knows(
    place: Place, events: Events
) -> None:
    """While an endpoint is being bound or unbound it is judged at its own point and at uplinks."""
    with Scene(place, POLICY, WHO, HOST, workload="web", elsewhere=["job"]) as scene:
        scene.kernel.write_endpoints(frozenset({"job"}), frozenset())
        scene.configure(events=events)
        for src, dst in ((JOB, WEB), ("2001:db8::3", WEB6)):
            frame = ether((ipv6 if ":" in src else ipv4)(src, dst, 6, tcp(40000, 80, 16)))
            for _ in range(2):
                assert scene.send(WORKLOAD_IN, frame)[0] == PASS[WORKLOAD_IN.hook]
            for _ in range(2):
                for at in INS:
                    assert scene.send(at, frame)[0] != PASS[at.hook]


def test_with_no_endpoint_registered_yet_everything_is_denied(loaded: Scene) -> None:
    loaded.bind()
    solicitation = ether(ipv6("fe80::1", "ff02::1", 58, icmp(135), hops=255))
    for frame in (
        syn(WEB, WORLD, 443),
        datagram("0.0.0.0", "255.255.255.255", 67),
        solicitation,
        ether(b"arp", kind=b"\x08\x06"),
    ):
        every(loaded, (EMPTY_IN, EMPTY_OUT, EMPTY_XDP), frame, "deny unregistered")
    for at in (CGROUP_IN, CGROUP_OUT, CGROUP_LOOPBACK_IN):
        every(loaded, (at,), syn(WEB, WORLD, 443), "deny unregistered")
    every(loaded, (CGROUP_IN,), solicitation, "deny unregistered")


def test_a_device_that_no_map_names_and_a_load_that_is_not_ready_deny_every_packet(loaded: Scene) -> None:
    loaded.bind(workload="web", inner="web")
    solicitation = ether(ipv6("fe80::1", "ff02::1", 58, icmp(135), hops=255))
    for frame in (syn(WORLD, WEB, 80), solicitation):
        every(loaded, (UNKNOWN_IN, UNKNOWN_OUT, UNKNOWN_XDP), frame, "deny not-ready")
        loaded.configure(State.NOT_READY)
        every(loaded, (UPLINK_IN, UPLINK_OUT, UPLINK_XDP, CGROUP_IN, CGROUP_OUT), frame, "deny not-ready")
        assert loaded.of_kernel(WORKLOAD_IN, frame) == "deny not-ready"  # counted in the device's direction
        loaded.configure(State.ACTIVE)


def test_a_dormant_load_passes_everything_until_activation(loaded: Scene) -> None:
    loaded.bind(workload="web", inner="web")
    loaded.configure(State.DORMANT)
    for at in (UPLINK_IN, UPLINK_XDP, WORKLOAD_IN, WORKLOAD_OUT, CGROUP_IN, CGROUP_OUT, UNKNOWN_IN, EMPTY_IN):
        loaded.check(at, syn(WORLD, WEB, 9), "allow none")
    loaded.configure(State.ACTIVE)
    every(loaded, (WORKLOAD_IN,), syn(WORLD, WEB, 9), "deny default")


def test_an_object_whose_maps_are_empty_denies_every_packet(place: Place) -> None:
    from cases.scene import artifact_of

    from policyc.artifact.layout import PROGRAM_PREFIX, Hook
    from policyc.runtime.object import Object
    from policyc.runtime.testrun import run_skb, run_xdp

    blank = Object(artifact_of(POLICY))
    try:
        blank.load()
        denied = {
            Hook.TC_INGRESS: 2,
            Hook.TC_EGRESS: 2,
            Hook.CGROUP_INGRESS: 0,
            Hook.CGROUP_EGRESS: 0,
            Hook.XDP_INGRESS: 1,
        }
        for prefix in (PROGRAM_PREFIX, "enter_"):
            for hook, code in denied.items():
                run = run_xdp if hook is Hook.XDP_INGRESS else run_skb
                program = blank.program_fd(prefix + hook.name.lower())
                assert run(program, syn(WORLD, WEB, 80), ifindex=place.devices["uplink"]).code == code, (prefix, hook)
    finally:
        blank.close()


def test_the_endpoint_of_the_nearest_ancestor_cgroup_is_the_subject(loaded: Scene) -> None:
    loaded.bind(outer="web")
    every(loaded, (CGROUP_IN,), syn(WORLD, WEB, 80), "allow rule web.ingress.1")
    loaded.bind(outer="web", inner="job")
    every(loaded, (CGROUP_IN,), syn(WORLD, WEB, 80), "deny default")
    every(loaded, (CGROUP_IN,), syn(WORLD, WEB, 81), "allow rule job.ingress.1")
    every(loaded, (CGROUP_OUT,), syn(WEB, WORLD, 443), "deny spoofed-source")
    loaded.bind(inner="web")
    every(loaded, (CGROUP_OUT,), syn(WEB, WORLD, 443), "allow rule web.egress.1")


def test_a_cgroup_of_an_endpoint_with_an_interface_serves_only_its_streams(loaded: Scene) -> None:
    loaded.bind(inner="job", workload="job", streams_only=True)
    every(loaded, (CGROUP_IN, CGROUP_OUT), syn(WORLD, WEB, 9), "allow none")
    every(loaded, (WORKLOAD_IN,), syn(WORLD, JOB, 9), "deny default")
    # It is the nearest one: what an outer cgroup says is not asked.
    loaded.bind(inner="job", outer="web", workload="job", streams_only=True)
    every(loaded, (CGROUP_IN, CGROUP_OUT), syn(WORLD, WEB, 9), "allow none")


def test_loopback_is_judged_only_of_a_cgroup_in_the_machines_namespace(loaded: Scene) -> None:
    loaded.bind(inner="web")
    every(loaded, (CGROUP_LOOPBACK_IN,), syn("127.0.0.1", "127.0.0.1", 81), "deny default")
    every(loaded, (CGROUP_LOOPBACK_OUT,), syn(WEB, WEB, 443), "allow rule web.egress.1")
    every(loaded, (CGROUP_LOOPBACK_OUT,), syn(WEB, WEB, 80), "deny default")
    loaded.bind(inner="web", own_netns=True)
    every(loaded, (CGROUP_LOOPBACK_IN, CGROUP_LOOPBACK_OUT), syn("127.0.0.1", "127.0.0.1", 81), "allow none")
    every(loaded, (CGROUP_LOOPBACK_OUT,), syn(WORLD, WEB, 81), "allow none")
    every(loaded, (CGROUP_IN,), syn(WORLD, WEB, 81), "deny default")


def test_frames_that_are_not_ip_are_counted_and_pass(loaded: Scene) -> None:
    loaded.bind(workload="web")
    arp = ether(bytes(28), kind=b"\x08\x06")
    every(loaded, (UPLINK_IN, UPLINK_OUT, UPLINK_XDP, WORKLOAD_IN, WORKLOAD_OUT, WORKLOAD_XDP), arp, "allow none")
    # An IP packet under another ethertype is none.
    hidden = ether(ipv4(WORLD, WEB, 6, tcp(1, 9)), kind=b"\x88\x64")
    every(loaded, (WORKLOAD_IN,), hidden, "allow none")


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        *((ether(ipv6("fe80::9", WEB6, 58, icmp(kind), hops=255)), "allow none") for kind in range(133, 138)),
        *((ether(ipv6("fe80::9", WEB6, 58, icmp(kind), hops=1)), "allow none") for kind in (130, 131, 132, 143)),
        # wrong hop limit
        *((ether(ipv6("fe80::9", WEB6, 58, icmp(kind), hops=254)), "deny default") for kind in range(133, 138)),
        *((ether(ipv6("fe80::9", WEB6, 58, icmp(kind), hops=255)), "deny default") for kind in (130, 131, 132, 143)),
        (ether(ipv6("fe80::9", WEB6, 58, icmp(135), hops=1)), "deny default"),
        # neighbours of these types
        *((ether(ipv6("fe80::9", WEB6, 58, icmp(kind), hops=255)), "deny default") for kind in (128, 129, 138, 142, 144)),
        *((ether(ipv6("fe80::9", WEB6, 58, icmp(kind), hops=1)), "deny default") for kind in (129, 133, 142, 144)),
        # behind a hop-by-hop header, as MLD is
        (ether(ipv6("fe80::9", WEB6, 0, extension(58, icmp(143)), hops=1)), "allow none"),
        # fragmented
        (ether(ipv6("fe80::9", WEB6, 44, fragment(58, icmp(135), more=True), hops=255)), "deny default"),
        (ether(ipv6("fe80::9", WEB6, 44, fragment(58, icmp(135), more=False, offset=1, number=9), hops=255)), "deny default"),
        # an atomic fragment is whole
        (ether(ipv6("fe80::9", WEB6, 44, fragment(58, icmp(135), more=False), hops=255)), "allow none"),
        # of another protocol or IP version
        (ether(ipv4(WORLD, WEB, 58, icmp(135))), "deny default"),
        (ether(ipv6("fe80::9", WEB6, 1, icmp(135), hops=255)), "deny default"),
        # cut short
        (ether(ipv6("fe80::9", WEB6, 58, icmp(135)[:7], hops=255)), "deny malformed"),
        (ether(ipv6("fe80::9", WEB6, 58, icmp(135), hops=255, length=7)), "deny malformed"),
    ],
    ids=said,
)  # fmt: skip
def test_neighbour_discovery_and_mld_are_no_flows_and_look_alikes_are(
    loaded: Scene, frame: bytes, expected: str
) -> None:
    loaded.bind(workload="web", inner="web")
    every(loaded, (WORKLOAD_IN, CGROUP_IN), frame, expected)
    loaded.bind()
    every(loaded, INS, frame, expected)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ((b"\x81\x00",), "allow rule web.ingress.1"),
        ((b"\x88\xa8",), "allow rule web.ingress.1"),
        ((b"\x88\xa8", b"\x81\x00"), "allow rule web.ingress.1"),
        ((b"\x81\x00", b"\x81\x00"), "allow rule web.ingress.1"),
        ((b"\x81\x00", b"\x81\x00", b"\x81\x00"), "deny malformed"),
        ((b"\x88\xa8", b"\x88\xa8", b"\x81\x00"), "deny malformed"),
        ((b"\x91\x00",), "allow none"),  # not one of the two tags: not IP
    ],
    ids=said,
)
def test_two_vlan_tags_are_skipped_and_what_is_beneath_is_judged(
    loaded: Scene, tags: tuple[bytes, ...], expected: str
) -> None:
    loaded.bind(workload="web")
    every(loaded, (WORKLOAD_IN,), ether(ipv4(WORLD, WEB, 6, tcp(1, 80)), *tags), expected)
    loaded.bind()
    every(loaded, INS, ether(ipv6(WORLD6, WEB6, 6, tcp(1, 80)), *tags), expected)


def test_tags_hide_nothing_from_the_policy(loaded: Scene) -> None:
    loaded.bind(workload="web")
    for tags in ((b"\x81\x00",), (b"\x88\xa8", b"\x81\x00")):
        every(loaded, (WORKLOAD_IN,), ether(ipv4(WORLD, WEB, 6, tcp(1, 81)), *tags), "deny default")
        every(loaded, WORKLOAD_OUTS, ether(ipv4(WORLD, WEB, 6, tcp(1, 443)), *tags), "deny spoofed-source")
        every(loaded, (WORKLOAD_IN,), ether(b"", *tags, kind=b"\x08\x06"), "allow none")


def test_a_load_that_only_reports_passes_what_no_rule_denies_and_tells(place: Place) -> None:
    with Scene(place, POLICY, WHO, HOST, workload="web", audit=True) as scene:
        every(scene, (WORKLOAD_IN,), syn(WORLD, WEB, 80), "allow no-policy")
        every(scene, (WORKLOAD_IN,), syn(WORLD, WEB, 81), "allow no-policy ~ deny default")
        every(scene, WORKLOAD_OUTS, syn(WEB2, WORLD, 443), "allow no-policy ~ deny spoofed-source")
        every(scene, (EMPTY_OUT,), syn(WEB2, WORLD, 443), "allow no-policy ~ deny unregistered")
        every(scene, (WORKLOAD_IN,), ether(ipv4(WORLD, WEB, 6, b"")), "allow no-policy ~ deny malformed")
        every(scene, INS, ether(ipv4(WORLD, MACHINE, 6, tcp(1, 80), ihl=4)), "allow no-policy ~ deny malformed")
        every(scene, (UNKNOWN_IN,), syn(WORLD, WEB, 80), "deny not-ready")
        scene.configure(events=Events.NONE)
        assert scene.send(WORKLOAD_IN, syn(WORLD, WEB, 82))[1] is not None


AUDITED_RULE = """
policy web for { app == web } {
  ingress { deny from any on tcp/82 audit as soon
            allow from any on tcp log as logged }
}
"""


def test_a_load_that_only_reports_has_all_that_is_audited_in_force(place: Place) -> None:
    with Scene(place, AUDITED_RULE, WHO, HOST, workload="web", audit=True) as scene:
        every(scene, (WORKLOAD_IN,), syn(WORLD, WEB, 82), "allow no-policy ~ deny rule web.soon")
        every(scene, (WORKLOAD_IN,), syn(WORLD, WEB, 81), "allow no-policy")
        scene.forget()
        scene.configure(events=Events.NONE)
        assert scene.send(WORKLOAD_IN, syn(WORLD, WEB, 82))[1] is not None
        # Rules only report here: what one of them allows is not its connection to tell of.
        assert scene.send(WORKLOAD_IN, syn(WORLD, WEB, 81))[1] is None
