"""Flow lines: one JSON object a line, as `policyc eval` reads them, to a `Flow`."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from policyc.model import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, Direction
from policyc.quoting import quoted
from policyc.reference.verdict import Traffic
from policyc.reference.world import Address, AddressClass, World
from policyc.requests import BadRequest, Segments, parse_http

PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": ICMP, "icmpv6": ICMPV6}
IPV6_EXTENSION_HEADERS = frozenset({0, 43, 44, 60})
FIELDS = ("src", "dst", "proto", "sport", "dport", "icmp_type", "icmp_code", "direction", "http")
L7_FIELDS = ("kafka", "dns", "grpc")
TCP = 6
LINE_LIMIT = 1 << 20  # bytes or characters: ten heads of 64 KiB in base64
LOOPBACK: dict[str, Address] = {"4": ("4", 127 << 24 | 1), "6": ("6", 1)}


@dataclass(frozen=True)
class Flow:
    """The first packet of a new connection. `sport` is None where not given; without `direction` both ends are judged.
    `http`: what the client then sends, one write after the other; None: nothing is asked about requests."""

    src: Address
    dst: Address
    traffic: Traffic
    sport: int | None = None
    direction: Direction | None = None
    http: Segments | None = None


class BadFlow(Exception):
    """A flow line that is none; the message goes into the error object."""


def parse_address(text: str) -> Address | None:
    """None where the text is no plain address (a prefix, a zone, a name)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return ("4", int(address))
    return None if address.scope_id is not None else ("6", int(address))


def address_text(address: Address) -> str:
    family, number = address
    return str(ipaddress.IPv4Address(number) if family == "4" else ipaddress.IPv6Address(number))


# --- the line as JSON -------------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise BadFlow(f"{name} is not a JSON value")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise BadFlow(f"field {quoted(key)} is given twice")
        result[key] = value
    return result


def parse_object(line: str | bytes) -> dict[str, Any]:
    """One line to a JSON object. Raises BadFlow."""
    if len(line) > LINE_LIMIT:
        raise BadFlow(f"the line is longer than {LINE_LIMIT} bytes")
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        if not text.strip():
            raise BadFlow("the line is empty")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise BadFlow("the line is not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadFlow(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise BadFlow("nested too deeply") from None
    except ValueError:
        raise BadFlow("a number has too many digits") from None
    if not isinstance(value, dict):
        raise BadFlow("a flow is a JSON object")
    return value


# --- fields -----------------------------------------------------------------------------------------------------


def _check_fields(fields: Mapping[str, Any]) -> None:
    for key in fields:
        if key in L7_FIELDS:
            raise BadFlow(f"field {quoted(key)} is not there yet: it comes in a later version")
        if key not in FIELDS:
            raise BadFlow(f"unknown field {quoted(key)}; a flow has {', '.join(FIELDS)}")
    for key in ("src", "dst", "proto"):
        if key not in fields:
            raise BadFlow(f"field {quoted(key)} is missing")


def _integer(fields: Mapping[str, Any], key: str, most: int) -> int | None:
    if key not in fields:
        return None
    value = fields[key]
    if type(value) is not int or not 0 <= value <= most:
        raise BadFlow(f"{key} must be an integer from 0 to {most}, not {quoted(value)}")
    return value


def _protocol(value: object) -> int:
    if isinstance(value, str) and value in PROTOCOL_NUMBERS:
        return PROTOCOL_NUMBERS[value]
    if type(value) is int and 0 <= value <= 255:
        return value
    raise BadFlow(f"proto must be one of {', '.join(PROTOCOL_NUMBERS)} or a number from 0 to 255, not {quoted(value)}")


def _traffic(fields: Mapping[str, Any]) -> tuple[Traffic, int | None]:
    """What the protocol has, and nothing else. The second is the source port."""
    protocol = _protocol(fields["proto"])
    with_ports = protocol in PROTOCOLS_WITH_PORTS
    with_types = protocol in (ICMP, ICMPV6)
    for key, fits in (
        ("sport", with_ports),
        ("dport", with_ports),
        ("icmp_type", with_types),
        ("icmp_code", with_types),
    ):
        if key in fields and not fits:
            raise BadFlow(f"protocol {protocol} has no {key}")
    sport, dport = _integer(fields, "sport", 65535), _integer(fields, "dport", 65535)
    icmp_type, icmp_code = _integer(fields, "icmp_type", 255), _integer(fields, "icmp_code", 255)
    if with_ports and dport is None:
        raise BadFlow(f'field "dport" is missing; {PROTOCOLS_WITH_PORTS[protocol]} has ports')
    if not with_types:
        return Traffic(protocol, dport), sport
    if icmp_type is None:
        raise BadFlow('field "icmp_type" is missing')
    return Traffic(protocol, icmp_type=icmp_type, icmp_code=icmp_code or 0), None


def _direction(fields: Mapping[str, Any]) -> Direction | None:
    if "direction" not in fields:
        return None
    words = {d.word: d for d in Direction}
    value = fields["direction"]
    if not isinstance(value, str) or value not in words:
        raise BadFlow(f"direction must be ingress or egress, not {quoted(value)}")
    return words[value]


# --- ends -------------------------------------------------------------------------------------------------------


def host_address(world: World, family: str) -> Address:
    """The address that `host` stands for: the first listed one of the family, else loopback."""
    listed = (a for a in world.host if a[0] == family and world.class_of(a) is AddressClass.HOST)
    return next(listed, LOOPBACK[family])


def _candidates(world: World, key: str, value: object) -> list[Address]:
    """Addresses an end may stand for, at most one of each family."""
    if not isinstance(value, str):
        raise BadFlow(f"{key} must be an address, an endpoint's name or host, not {quoted(value)}")
    if value == "host":
        return [host_address(world, "4"), host_address(world, "6")]
    address = parse_address(value)
    if address is not None:
        return [address]
    endpoint = world.endpoints.get(value)
    if endpoint is None:
        raise BadFlow(f"{key} {quoted(value)} is neither an address nor a registered endpoint")
    if not endpoint.addresses:
        raise BadFlow(f"{key} {quoted(value)} has no address")
    first: dict[str, Address] = {}
    for own in endpoint.addresses:
        first.setdefault(own[0], own)
    return list(first.values())


def resolve_ends(world: World, src: object, dst: object) -> tuple[Address, Address]:
    """Both ends, of one family: that of the first address of the source (`host` yields) which the destination has, too."""
    sources, destinations = _candidates(world, "src", src), _candidates(world, "dst", dst)
    lead, other = (destinations, sources) if src == "host" else (sources, destinations)
    for address in lead:
        for partner in other:
            if partner[0] == address[0]:
                return (partner, address) if src == "host" else (address, partner)
    raise BadFlow("src and dst have no address family in common")


def authority(address: Address) -> str:
    """An address as the host of a request."""
    text = address_text(address)
    return f"[{text}]" if address[0] == "6" else text


def _http(fields: Mapping[str, Any], traffic: Traffic, dst: Address) -> Segments | None:
    if "http" not in fields:
        return None
    if traffic.protocol != TCP:
        raise BadFlow(f"protocol {traffic.protocol} has no http; tcp has")
    try:
        return parse_http(fields["http"], authority(dst))
    except BadRequest as error:
        raise BadFlow(str(error)) from None


def parse_flow(line: str | bytes, world: World) -> Flow:
    """One line to a flow; names are looked up in `world`. Raises BadFlow."""
    fields = parse_object(line)
    _check_fields(fields)
    traffic, sport = _traffic(fields)
    direction = _direction(fields)
    src, dst = resolve_ends(world, fields["src"], fields["dst"])
    if src[0] == "6" and traffic.protocol in IPV6_EXTENSION_HEADERS:
        raise BadFlow(f"proto {traffic.protocol} is an extension header in IPv6, not a protocol")
    return Flow(src, dst, traffic, sport, direction, _http(fields, traffic, dst))
