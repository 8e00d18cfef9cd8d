"""A small BPF object without code, built by hand, and a policy with one of everything, for the tests of this folder."""

from __future__ import annotations

import struct

from policyc.artifact import writer
from policyc.artifact.elf import HEADER, SECTION_HEADER
from policyc.artifact.layout import IdentityLayout
from policyc.ir import tables as ir
from policyc.model import (
    Action,
    AddressSet,
    Direction,
    Endpoint,
    Expectation,
    Isolation,
    Op,
    PeerCidrs,
    PeerClass,
    PeerSame,
    PeerSelector,
    Policy,
    PolicySet,
    Requirement,
    Rule,
    Selector,
    Service,
    Span,
    Test,
    TestEnd,
    Tier,
)

LAYOUT = IdentityLayout(2, 3, 1)


def minimal_object(code: bytes = struct.pack("<QQ", 0xB7, 0x95)) -> bytes:
    """An ELF object for BPF with the sections `tc/ingress` and `.rodata`: `r0 = 0; exit`."""
    names = b"\0.shstrtab\0tc/ingress\0.rodata\0"
    bodies = [(11, code), (22, b"12345678"), (1, names)]
    out = bytearray(HEADER.size)
    rows = [SECTION_HEADER.pack(*[0] * 10)]
    for name, body in bodies:
        kind = 3 if name == 1 else 1
        rows.append(SECTION_HEADER.pack(name, kind, 2, 0, len(out), len(body), 0, 0, 8, 0))
        out += body + bytes(-len(body) % 8)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = HEADER.pack(ident, 1, 247, 1, 0, 0, len(out), 0, HEADER.size, 0, 0, SECTION_HEADER.size, len(rows), 3)
    return header + bytes(out[HEADER.size :]) + b"".join(rows)


def span(line: int, file: str = "ä.pol") -> Span:
    return Span(file, line, 3, line, 9)


WEB = Selector((Requirement("app", Op.EQ, ("web",)), Requirement("env", Op.NOT_IN, ("dev", 'q"\u2028'))))
NETS = AddressSet(v4=((0, 255), (1 << 31, 2**32 - 1)), v6=((1 << 64, (1 << 64) + 5), (2**128 - 1, 2**128 - 1)))


def rich_policy() -> PolicySet:
    peers = (
        PeerClass.ANY,
        PeerSelector(WEB, "web"),
        PeerSelector(Selector()),
        PeerSame(("ns", "zone")),
        PeerCidrs(NETS, True, "nets"),
        PeerCidrs(AddressSet()),
    )
    services = (Service(), Service(6, (80, 443)), Service(1, None, 8, 0), Service(112))
    rule = Rule(0, "p.named", "p", Direction.INGRESS, Tier.ADMIN, 7, Action.DENY, peers, services, True, False, span(3))
    other = Rule(1, "p.egress.1", "p", Direction.EGRESS, Tier.ADMIN, 7, Action.PASS, (), (), False, True, span(9, "b"))
    policy = Policy(
        "p",
        (PeerClass.HOST, PeerClass.ENDPOINTS, PeerSelector(WEB, "web")),
        Tier.ADMIN,
        7,
        True,
        {Direction.EGRESS: Isolation(True, span(8))},
        (rule, other),
        span(2),
    )
    ends = (
        TestEnd("endpoint", "e"),
        TestEnd("address", "::1", ("6", 1)),
        TestEnd("host", "host"),
        TestEnd("address", "1.0.0.0", ("4", 1 << 24)),
    )
    expectation = Expectation("deny", ends[:2], ends[2:], (Service(17, (1, 65535)),), "p.named", span(21))
    endpoint = Endpoint("e", (("4", 5), ("6", 2**128 - 1)), {"b": "1", "a": "ü"}, "/c", None)
    return PolicySet(
        1,
        (("ä.pol", "0" * 64), ("b", "1" * 64)),
        {"web": WEB, "me": None},
        (policy,),
        NETS,
        (Test("title", (endpoint,), (expectation,), span(20)),),
    )


def tables() -> ir.Tables:
    rule = ir.RankedRule("p.named", Direction.INGRESS, Tier.ADMIN, 7, 0, Action.DENY, True, False, span(3))
    group = ir.Group(Direction.INGRESS, Tier.ADMIN, 0, ir.Isolation(True, True), 0, 0, 0, (), (), None, span(2))
    host = ir.Group(Direction.EGRESS, Tier.NORMAL, PeerClass.HOST, ir.Isolation(), 0, 0, 0, (), (), None, span(2))
    empty = ir.Row(((0, ir.EMPTY),))
    selected = (ir.SelectedBy(0, True), ir.SelectedBy(PeerClass.HOST, False))
    return ir.Tables((WEB,), ("ns",), (rule,), (empty,), (), (group, host), selected, False)


def artifact() -> bytes:
    return writer.write(minimal_object(), tables(), rich_policy(), LAYOUT, "0.50.0")
