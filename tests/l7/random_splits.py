"""The same bytes in other writes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.l7.differential_case import Case, Segment

SHORT = 400  # bytes of a stream that is cut everywhere


def every_split(case: Case) -> Iterator[Case]:
    """In two, at each byte."""
    if 1 < len(case.stream) <= SHORT:
        yield from (case.split(f"cut at {at}", at) for at in range(1, len(case.stream)))


def every_byte(case: Case) -> Iterator[Case]:
    if 1 < len(case.stream) <= SHORT:
        yield case.split("byte by byte", *[1] * len(case.stream))


def groupings(name: str, requests: tuple[bytes, ...], case: Case) -> Iterator[Case]:
    """Each way to write these requests one after the other, neighbours in one write or not."""
    for mask in range(1 << len(requests) - 1):
        pieces = [requests[0]]
        for number, request in enumerate(requests[1:]):
            if mask >> number & 1:
                pieces.append(request)
            else:
                pieces[-1] += request
        segments = tuple(Segment(piece) for piece in pieces)
        yield Case(f"{name}, writes {mask:b}", case.rules, segments)
