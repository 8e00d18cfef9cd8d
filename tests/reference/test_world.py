"""Semantics 1: classes of addresses, selectors, peers, subjects."""

from __future__ import annotations

import pytest

from policyc.reference.world import HOST, AddressClass, EndpointConflict, World, selects
from tests.reference.builders import (
    ALL,
    ANY,
    BARE,
    DB,
    ENDPOINTS,
    HOST_PEER,
    IN,
    JOB,
    OUTSIDE,
    WEB,
    WORLD_PEER,
    addr,
    ask,
    cidr,
    ep,
    peer,
    policies,
    policy,
    rule,
    same,
    says,
    sel,
    world,
)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1", AddressClass.ENDPOINTS),
        ("2001:db8::2", AddressClass.ENDPOINTS),
        ("192.168.0.1", AddressClass.HOST),
        ("fd00::1", AddressClass.HOST),
        ("127.0.0.1", AddressClass.HOST),
        ("127.255.255.255", AddressClass.HOST),
        ("::1", AddressClass.HOST),
        ("128.0.0.0", AddressClass.WORLD),
        ("::2", AddressClass.WORLD),
        ("203.0.113.7", AddressClass.WORLD),
        ("::ffff:10.0.0.1", AddressClass.WORLD),  # on the wire an ordinary IPv6 address
    ],
)
def test_every_address_has_one_class(address: str, expected: AddressClass) -> None:
    assert world().class_of(addr(address)) is expected


def test_a_registered_address_is_no_longer_the_hosts() -> None:
    w = World(policies(), [ep("vip", "192.168.0.1")], [addr("192.168.0.1")])
    assert w.class_of(addr("192.168.0.1")) is AddressClass.ENDPOINTS


@pytest.mark.parametrize("second", [ep("web", "10.0.0.9"), ep("other", "10.0.0.1")])
def test_names_and_addresses_belong_to_one_endpoint(second: object) -> None:
    with pytest.raises(EndpointConflict, match="web"):
        World(policies(), [WEB, second])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("requirement", "matching"),
    [
        (("==", "app", "web"), {"web"}),
        (("!=", "app", "web"), {"db", "job", "bare"}),  # holds where the key is absent
        (("in", "app", "web", "db"), {"web", "db"}),
        (("not in", "app", "web", "db"), {"job", "bare"}),
        (("exists", "app"), {"web", "db", "job"}),
        (("not exists", "app"), {"bare"}),
        (("==", "k8s:app", "web"), set()),  # keys are opaque
    ],
)
def test_requirements(requirement: tuple[str, ...], matching: set[str]) -> None:
    assert {e.name for e in ALL if selects(sel(requirement), e.labels)} == matching


def test_requirements_are_anded_and_none_selects_everybody() -> None:
    assert [e.name for e in ALL if selects(sel(app="web", ns="batch"), e.labels)] == []
    assert all(selects(sel(), e.labels) for e in ALL)


def test_identities_of_an_address() -> None:
    w = world(identities={"all": sel(), "shop": sel(ns="shop"), "web": sel(app="web"), "machine": None})
    assert w.identities(addr("10.0.0.1")) == ["all", "shop", "web"]
    assert w.identities(addr("192.168.0.1")) == ["machine"]
    assert w.identities(addr(OUTSIDE)) == []


PEERS = {
    "web": "10.0.0.1",
    "db": "10.0.0.2",
    "job": "10.0.0.3",
    "bare": "10.0.0.4",
    "host": "192.168.0.1",
    "out": OUTSIDE,
}


@pytest.mark.parametrize(
    ("which", "matching"),
    [
        (ANY, {"web", "db", "job", "bare", "host", "out"}),
        (WORLD_PEER, {"out"}),
        (HOST_PEER, {"host"}),
        (ENDPOINTS, {"web", "db", "job", "bare"}),
        (peer(), {"web", "db", "job", "bare"}),  # never the host
        (peer(app="db"), {"db"}),
        (peer(("!=", "app", "db")), {"web", "job", "bare"}),
        (same("ns"), {"web", "db"}),
        (same("ns", "app"), {"web"}),
        (same("zone"), set()),  # the subject has no such key
        (cidr("10.0.0.0/30"), {"web", "db", "job"}),  # by address, whatever the class
        (cidr("192.168.0.0/24", "203.0.113.0/24"), {"host", "out"}),
        (cidr("0.0.0.0/0", world=True), {"out"}),
        (cidr("10.0.0.0/8", world=True), set()),
        (cidr(), set()),
        (cidr("::/0"), set()),
    ],
)
def test_peers_of_web(which: object, matching: set[str]) -> None:
    w = world(policy(rule("allow", which)))  # type: ignore[arg-type]
    assert {name for name, address in PEERS.items() if ask(w, address).verdict == "allow"} == matching


def test_same_needs_the_key_at_both_ends_and_an_endpoint_as_subject() -> None:
    w = world(policy(rule("allow", same("ns")), on=[ENDPOINTS, HOST_PEER]))
    assert ask(w, "web", "bare").verdict == "deny"
    assert ask(w, "bare", "web").verdict == "deny"
    assert ask(w, "web", "host").verdict == "deny"


def test_an_endpoint_without_addresses_is_only_a_subject() -> None:
    pg = ep("pg", cgroup="/pg", unit="pg")
    w = world(policy(rule("allow", peer(unit="pg"))), endpoints=(*ALL, pg))
    assert ask(w, "192.168.0.1").verdict == "deny"  # as a peer it is `host`
    assert says(ask(w, OUTSIDE, "pg")) == ("deny", "default", None)


@pytest.mark.parametrize(
    ("subjects", "selected"),
    [
        ([ENDPOINTS], {"web", "db", "job", "bare"}),
        ([peer()], {"web", "db", "job", "bare"}),
        ([HOST_PEER], {"host"}),
        ([peer(app="web"), HOST_PEER], {"web", "host"}),
        ([peer(app="web"), peer(ns="shop")], {"web", "db"}),
    ],
)
def test_subjects(subjects: list[object], selected: set[str]) -> None:
    w = world(policy(on=subjects, isolate=(IN,)))  # type: ignore[arg-type]
    names = [e.name for e in (WEB, DB, JOB, BARE)] + ["host"]
    assert {n for n in names if ask(w, OUTSIDE, n).reason == "default"} == selected
    assert w.subject(addr("127.0.0.1")) is HOST
    assert w.subject(addr(OUTSIDE)) is None
