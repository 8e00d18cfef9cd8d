"""Which packets leave an event where not all do (semantics 3, "Log"): each connection once, what is denied at most once a second."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum

from policyc.artifact.layout import Events
from policyc.reference.machine import Noted
from policyc.reference.verdict import Judgement

SECOND_NS = 1_000_000_000
SLACK_NS = 20_000_000  # between two readings of the clock


class Due(Enum):
    NO = "no"
    MAYBE = "maybe"  # a connection's or flow's last event may be another's, or it depends on when exactly it was
    YES = "yes"


@dataclass(frozen=True)
class FlowId:
    """What tells flows apart. Of a packet that was not read whole only `ends` is `certain`: it may share its last event with others there;
    equal ones share it surely."""

    ends: Hashable
    rest: Hashable
    certain: bool = True


@dataclass
class EventBook:
    """The times of the last limited events by flow."""

    events: Events
    last: dict[FlowId, int] = field(default_factory=dict)
    doubtful: set[Hashable] = field(default_factory=set)

    def due(self, judgement: Judgement, noted: Noted, flow: FlowId, begun: int, ended: int) -> Due:
        """Whether a packet judged between these two times leaves an event."""
        if self.events is Events.TRACE or self._opens(judgement, noted):
            return Due.YES
        everything = self.events is Events.ALL
        denied = judgement.verdict == "deny"
        denial = denied and (self.events is not Events.NONE or judgement.log)
        stateless = noted.judged and not noted.opened and not denial and (everything or judgement.log)
        if not (denial or stateless or (noted.judged and judgement.prospective is not None)):
            return Due.NO
        if not flow.certain:
            self.doubtful.add(flow.ends)
        last = self.last.get(flow)
        if last is not None and ended - last < SECOND_NS - SLACK_NS:
            return Due.NO
        late = last is None or begun - last > SECOND_NS + SLACK_NS
        return Due.YES if late and flow.ends not in self.doubtful else Due.MAYBE

    def _opens(self, judgement: Judgement, noted: Noted) -> bool:
        return noted.opened and (self.events is Events.ALL or judgement.log)

    def told(self, judgement: Judgement, noted: Noted, flow: FlowId, time: int) -> None:
        """The packet left an event at `time`."""
        if self.events is not Events.TRACE and not self._opens(judgement, noted):
            self.last[flow] = time
