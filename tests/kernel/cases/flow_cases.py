"""Cases of first packets, as text.

A file `NAME.case` has a policy, then `--- who` and the endpoints (`NAME [ADDRESS …] [KEY=VALUE …]`; `host` lists this machine's addresses),
then `--- flows`: comments name the sentence that the lines below protect, and a line is

    SUBJECT <- PEER SERVICE   VERDICT REASON [REF] [log] [~ VERDICT REASON [REF]]

for what arrives at the subject, `->` for what it sends. Both ends are names or addresses; SERVICE is PROTOCOL[/PORT], PROTOCOL/TYPE[/CODE] of ICMP.
After `~` stands the prospective verdict; `log` means that the operator, who wants no events, gets one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cases.scene import IN, OUT, address, endpoint

from policyc.flows import PROTOCOL_NUMBERS, Flow
from policyc.model import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, Direction, Endpoint
from policyc.reference.verdict import Traffic
from policyc.reference.world import Address

FOLDER = Path(__file__).parent
LINE = re.compile(r"(\S+)\s+(<-|->)\s+(\S+)\s+(\S+)\s+((?:allow|deny)\b[^~]*?)( log)?\s*(~ .*)?")


@dataclass(frozen=True)
class Row:
    """`subject` is a name, or None where the end is an address that no endpoint is named for."""

    place: str
    subject: str | None
    direction: Direction
    flow: Flow
    expected: str
    log: bool


@dataclass(frozen=True)
class CaseFile:
    policy: str
    who: str
    host: str
    rows: tuple[Row, ...]


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.case"))


def read(name: str) -> CaseFile:
    text = (FOLDER / f"{name}.case").read_text()
    policy, rest = text.split("\n--- who\n")
    who, _ = rest.split("\n--- flows\n")
    lines = [line for line in who.splitlines() if line.strip()]
    host = " ".join(line.removeprefix("host ") for line in lines if line.startswith("host "))
    ends = [line for line in lines if not line.startswith("host ")]
    known = {e.name: e for e in map(endpoint, ends)}
    begin = text.index("\n--- flows\n") + len("\n--- flows\n")
    number = text[:begin].count("\n")
    rows = []
    for line in text[begin:].splitlines():
        number += 1
        said = line.partition("#")[0].strip()
        if said:
            rows.append(_row(f"{name}.case:{number}: {said}", said, known))
    return CaseFile(policy, "\n".join(ends), host, tuple(rows))


def _row(place: str, said: str, known: dict[str, Endpoint]) -> Row:
    match = LINE.fullmatch(said)
    assert match is not None, place
    local, arrow, remote, service, expected, log, prospective = match.groups()
    ours, theirs = _ends(local, remote, known)
    direction = IN if arrow == "<-" else OUT
    src, dst = (theirs, ours) if direction is IN else (ours, theirs)
    flow = Flow(src, dst, _traffic(service), None, direction)
    text = " ".join(expected.split()) + (f" {prospective}" if prospective else "")
    return Row(place, local if local in known else None, direction, flow, text, log is not None)


def _ends(local: str, remote: str, known: dict[str, Endpoint]) -> tuple[Address, Address]:
    """A name stands for its first address of the other end's family; between two names for the first one's first."""
    choices = [known[n].addresses if n in known else (address(n),) for n in (local, remote)]
    return next((a, b) for a in choices[0] for b in choices[1] if a[0] == b[0])


def _traffic(service: str) -> Traffic:
    protocol, *numbers = service.split("/")
    if protocol == "proto":
        return Traffic(int(numbers[0]))
    number, values = PROTOCOL_NUMBERS[protocol], [int(n) for n in numbers]
    if number in PROTOCOLS_WITH_PORTS:
        return Traffic(number, values[0])
    assert number in (ICMP, ICMPV6)
    return Traffic(number, icmp_type=values[0], icmp_code=values[1] if len(values) > 1 else 0)
