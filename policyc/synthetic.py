"""Endpoints that stand for identities in `test` blocks: the least labels, and addresses no prefix of the policy contains."""

from __future__ import annotations

from collections.abc import Iterable

from policyc.model import Endpoint, Op, PeerSelector, PolicySet, Requirement, Selector, Test
from policyc.reference.world import Address

Range = tuple[int, int]

# Where the search begins, and what no workload has: this network, loopback, multicast and what is above; ::/96 and
# mapped addresses, link-local, multicast.
START: dict[str, int] = {"4": 0x64400001, "6": 0xFD00 << 112 | 1}  # 100.64.0.1, fd00::1
LAST: dict[str, int] = {"4": 2**32 - 1, "6": 2**128 - 1}
UNUSABLE: dict[str, tuple[Range, ...]] = {
    "4": ((0, 2**24 - 1), (127 << 24, (128 << 24) - 1), (224 << 24, 2**32 - 1)),
    "6": ((0, 2**48 - 1), (0xFE80 << 112, (0xFEC0 << 112) - 1), (0xFF00 << 112, 2**128 - 1)),
}


class NoAddress(Exception):
    """The policy's prefixes leave no address for a synthetic endpoint."""


def synthetic_endpoints(policy: PolicySet, test: Test) -> list[Endpoint]:
    """One for each identity with a selector that the test names, in order of first use. Raises NoAddress."""
    names = dict.fromkeys(
        end.name
        for expectation in test.expectations
        for end in (*expectation.sources, *expectation.destinations)
        if end.kind == "identity"
    )
    taken = _taken(test)
    declared = {e.name for e in test.endpoints}
    endpoints = []
    for name in names:
        selector = policy.identities[name]
        if selector is None or name in declared:
            continue
        addresses = tuple(_free(policy, family, taken) for family in START)
        endpoints.append(Endpoint(name, addresses, least_labels(policy, name, selector)))
    return endpoints


def _taken(test: Test) -> set[Address]:
    """Addresses that the test itself gives a meaning."""
    taken = {address for endpoint in test.endpoints for address in endpoint.addresses}
    for expectation in test.expectations:
        taken |= {e.address for e in (*expectation.sources, *expectation.destinations) if e.address is not None}
    return taken


def _free(policy: PolicySet, family: str, taken: set[Address]) -> Address:
    """An address outside all prefixes, from START upwards and then from 0. It is added to `taken`."""
    prefixes = policy.prefixes.v4 if family == "4" else policy.prefixes.v6
    singles = [(number, number) for f, number in taken if f == family]
    blocked = sorted([*UNUSABLE[family], *prefixes, *singles])
    for start in (START[family], 0):
        number = first_gap(blocked, start)
        if number <= LAST[family]:
            address: Address = ("4", number) if family == "4" else ("6", number)
            taken.add(address)
            return address
    raise NoAddress(f"the policy's prefixes cover every IPv{family} address: none is left for an identity's endpoint")


def first_gap(blocked: Iterable[Range], start: int) -> int:
    """The first number from `start` that no range contains; the ranges are sorted."""
    number = start
    for first, last in blocked:
        if first > number:
            break
        number = max(number, last + 1)
    return number


def least_labels(policy: PolicySet, name: str, selector: Selector) -> dict[str, str]:
    """The labels a selector needs: `==` its value, the first of `in` that fits, an own value for `exists`, else none."""
    needed: dict[str, list[Requirement]] = {}
    for requirement in selector.requirements:
        needed.setdefault(requirement.key, []).append(requirement)
    labels = {}
    for key, requirements in needed.items():
        if any(r.op in (Op.EQ, Op.IN, Op.EXISTS) for r in requirements):
            labels[key] = _value(policy, name, requirements)
    return labels


def _value(policy: PolicySet, name: str, requirements: list[Requirement]) -> str:
    """A value that satisfies the requirements on one key; the selector can be satisfied."""
    lists = [r.values for r in requirements if r.op in (Op.EQ, Op.IN)]
    refused = {v for r in requirements if r.op in (Op.NE, Op.NOT_IN) for v in r.values}
    if not lists:
        return _own_value(policy, name)
    return next(v for v in lists[0] if v not in refused and all(v in other for other in lists))


def _own_value(policy: PolicySet, name: str) -> str:
    """A value that nothing in the policy mentions and no other identity has."""
    mentioned = _mentioned_values(policy)
    value = f"any-{name}"
    while value in mentioned:
        value += "-"
    return value


def _mentioned_values(policy: PolicySet) -> set[str]:
    selectors = [s for s in policy.identities.values() if s is not None]
    for p in policy.policies:
        ends = (*p.subjects, *(peer for r in p.rules for peer in r.peers))
        selectors += [e.selector for e in ends if isinstance(e, PeerSelector)]
    labels = {v for t in policy.tests for e in t.endpoints for v in e.labels.values()}
    return labels | {v for s in selectors for r in s.requirements for v in r.values}
