"""CIDR feed files: one prefix, address or range `A-B` a line; `#` and `;` begin comments; CRLF and a BOM are accepted."""

from __future__ import annotations

from policyc.check import addresses
from policyc.check.addresses import BadAddress, Range
from policyc.check.findings import Findings
from policyc.grammar.lexer import control_characters
from policyc.model import AddressSet, Span

MAX_BAD_LINES = 20


def feed(text: str, file: str, found: Findings) -> AddressSet:
    """The addresses of all lines. Bad lines are reported at their place; after twenty the rest is not read."""
    found.extend(control_characters(text, file))
    v4: list[Range] = []
    v6: list[Range] = []
    bad = 0
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.partition("#")[0].partition(";")[0].strip()
        if not entry:
            continue
        try:
            family, ends = _entry(entry)
        except BadAddress as error:
            bad += 1
            _report(error, entry, line, Span(file, number, 1, number, 1), found)
            if bad == MAX_BAD_LINES:
                break
            continue
        (v4 if family == "4" else v6).append(ends)
    return AddressSet(addresses.merged(v4), addresses.merged(v6))


def _entry(entry: str) -> tuple[addresses.Family, Range]:
    first, dash, last = entry.partition("-")
    if not dash:
        prefix = addresses.prefix(entry)
        return prefix.family, prefix.range
    family, low = addresses.number(first.strip())
    other, high = addresses.number(last.strip())
    if family != other:
        raise BadAddress("bad-address", "the ends of this range are of different families")
    if low > high:
        raise BadAddress("inverted-range", "this range is the wrong way round")
    return family, (low, high)


def _report(error: BadAddress, entry: str, line: str, start: Span, found: Findings) -> None:
    column = line.index(entry) + 1
    span = Span(start.file, start.line, column, start.line, column + len(entry))
    if error.name == "bad-address":
        expected = ("a prefix", "an address", "a range `A-B`")
        found.add(
            "bad-feed-line", f"this line is not an entry: {error.message}", span, expected=expected, help=error.help
        )
        return
    found.add(error.name, error.message, span, help=error.help)
