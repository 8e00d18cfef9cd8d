"""What is remembered between packets: connections and first fragments, each of the generation under which it was judged."""

from __future__ import annotations

from dataclasses import dataclass

from policyc.model import Direction, Rule
from policyc.reference.packet import FIN, RST, Packet
from policyc.reference.verdict import Judgement, Traffic
from policyc.reference.world import Address

TICK = 1 << 30  # ns; the unit of idle times
IDLE_TCP_OPENING, IDLE_TCP, IDLE_CLOSING, IDLE_OTHER, IDLE_FRAGMENT = 60, 7450, 10, 120, 30
TCP = 6

SubjectKey = tuple[str, bool]  # name, is the host


@dataclass(frozen=True)
class Tuple:
    """A connection as its subject sees it. Without ports, or of ICMP echo: the same number, or 0, as both ports."""

    subject: SubjectKey
    local: Address
    remote: Address
    local_port: int
    remote_port: int
    protocol: int


@dataclass
class Connection:
    """`traffic` is the first packet's service; `last_seen` in ticks; `denial` stands once it is no longer allowed."""

    direction: Direction
    traffic: Traffic
    generation: int
    rule: Rule | None
    last_seen: int
    replied: bool = False
    reset: bool = False
    finished: frozenset[bool] = frozenset()  # sides that sent a FIN; True: that of the first packet
    denial: Judgement | None = None

    def is_live(self, tick: int) -> bool:
        return tick - self.last_seen <= self._idle_limit()

    def _idle_limit(self) -> int:
        if self.traffic.protocol != TCP:
            return IDLE_OTHER
        if self.reset or len(self.finished) == 2:
            return IDLE_CLOSING
        return IDLE_TCP if self.replied else IDLE_TCP_OPENING

    def note(self, packet: Packet, direction: Direction, tick: int) -> None:
        """A packet of the connection passed."""
        forth = direction is self.direction
        self.last_seen = tick
        self.replied = self.replied or not forth
        if packet.tcp_flags & FIN:
            self.finished |= {forth}
        if packet.tcp_flags & RST:
            self.reset = True


@dataclass(frozen=True)
class FragmentKey:
    """Fragments of one packet. `protocol` is 0 in IPv6."""

    subject: SubjectKey
    direction: Direction
    source: Address
    destination: Address
    number: int
    protocol: int


@dataclass(frozen=True)
class FirstFragment:
    """The verdict on a first fragment, which later ones take."""

    generation: int
    judgement: Judgement
    seen: int  # ticks
