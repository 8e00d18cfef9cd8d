"""The ends of what events tell of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Side:
    """One end of a packet or request. `endpoint` is None where it is none, or is no more."""

    address: str
    peer_class: str
    endpoint: str | None
    labels: dict[str, str]
