"""Service values that stand for all: a rule set tells two values apart only at a boundary of one of its services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policyc.model import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, PolicySet, Service
from policyc.reference.verdict import Traffic

PORTS, BYTES = (1, 65535), (0, 255)


def representatives(policy: PolicySet, services: tuple[Service, ...]) -> list[Traffic]:
    """Values of an expectation's services such that if these are judged as expected, all are. No services: any."""
    rules = _rule_services(policy)
    values = dict.fromkeys(t for s in (services or (Service(),)) for t in _values(s, rules))
    return list(values)


def _rule_services(policy: PolicySet) -> tuple[Service, ...]:
    return tuple(dict.fromkeys(s for p in policy.policies for r in p.rules for s in r.services))


def _values(service: Service, rules: tuple[Service, ...]) -> Iterator[Traffic]:
    protocols = _protocols(rules) if service.protocol is None else (service.protocol,)
    for protocol in protocols:
        if protocol in PROTOCOLS_WITH_PORTS:
            yield from (Traffic(protocol, port) for port in _ports(protocol, service.ports or PORTS, rules))
        elif protocol in (ICMP, ICMPV6):
            yield from _icmp_values(service, protocol, rules)
        else:
            yield Traffic(protocol)


def _protocols(rules: tuple[Service, ...]) -> list[int]:
    """Those with ports or types, those that rules name, and one that nobody names."""
    named = {*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6, *(s.protocol for s in rules if s.protocol is not None)}
    other = [p for p in range(255, -1, -1) if p not in named]
    return sorted(named) + other[:1]


def _ports(protocol: int, wanted: tuple[int, int], rules: tuple[Service, ...]) -> list[int]:
    ranges = (s.ports for s in rules if s.protocol == protocol and s.ports is not None)
    return boundaries(wanted, ranges)


def _icmp_values(service: Service, protocol: int, rules: tuple[Service, ...]) -> Iterator[Traffic]:
    of_protocol = [s for s in rules if s.protocol == protocol and s.icmp_type is not None]
    wanted = BYTES if service.icmp_type is None else (service.icmp_type, service.icmp_type)
    for kind in boundaries(wanted, ((s.icmp_type, s.icmp_type) for s in of_protocol if s.icmp_type is not None)):
        codes = [s.icmp_code for s in of_protocol if s.icmp_type == kind and s.icmp_code is not None]
        wanted_codes = BYTES if service.icmp_code is None else (service.icmp_code, service.icmp_code)
        for code in boundaries(wanted_codes, ((c, c) for c in codes)):
            yield Traffic(protocol, icmp_type=kind, icmp_code=code)


def boundaries(wanted: tuple[int, int], ranges: Iterable[tuple[int, int]]) -> list[int]:
    """The ends of `wanted` and every place in it where one of `ranges` begins or has just ended, ascending."""
    first, last = wanted
    places = {first, last}
    for start, end in ranges:
        places |= {start, end + 1}
    return sorted(p for p in places if first <= p <= last)


def service_text(traffic: Traffic) -> str:
    """As a rule would name it: tcp/80, icmp/8/0, proto 112."""
    if traffic.port is not None:
        return f"{PROTOCOLS_WITH_PORTS[traffic.protocol]}/{traffic.port}"
    if traffic.icmp_type is not None:
        name = "icmp" if traffic.protocol == ICMP else "icmpv6"
        return f"{name}/{traffic.icmp_type}/{traffic.icmp_code}"
    return f"proto {traffic.protocol}"
