"""Requests judged: which entries match a request, and a stream of segments to verdicts (semantics 4, HTTP/1.x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from policyc.artifact.stream_layout import Saw
from policyc.model import HTTP_HEAD_LIMIT, Action, HttpBlock, HttpCondition, HttpEntry, Pattern, Rule
from policyc.reference.http_head import NAMED_FORMS, Head, Line, Malformed, Reader, read_body, read_head
from policyc.reference.http_patterns import Place, matches

Verdict = Literal["allow", "deny"]
RequestAnswer = Literal["403", "closed"]
End = Literal["open", "closed"]


@dataclass(frozen=True)
class Decision:
    """`rule` is the one that decided, or, where no entry did, the first of the connection's, if it has any; `entry` is one of its block."""

    verdict: Verdict
    reason: str
    rule: Rule | None
    entry: HttpEntry | None = None
    saw: Saw = Saw.NOTHING


@dataclass(frozen=True)
class RequestVerdict:
    """A request that was judged. `method`, `target`, `path` (without the query) and `host` are as sent, empty where that element was not
    complete; `minor` None: the version was not. `prospective` stands where its verdict differs. `again`: the request before, whose head was allowed, is denied
    for its body. `saw`: what is malformed."""

    verdict: Verdict
    reason: str
    rule: Rule | None
    entry: HttpEntry | None
    answer: RequestAnswer | None
    saw: Saw
    method: bytes
    target: bytes
    path: bytes
    host: bytes
    minor: int | None
    log: bool
    prospective: Decision | None = None
    again: bool = False


# --- entries --------------------------------------------------------------------------------------------------------


def _any_matches(patterns: Sequence[Pattern], data: bytes, place: Place) -> bool:
    return any(matches(p, data, place) for p in patterns)


def _hold(action: Action, answers: Sequence[bool]) -> bool:
    """Of repeated lines an allow entry needs all, a deny entry one."""
    return any(answers) if action is Action.DENY else all(answers)


def _condition_holds(condition: HttpCondition, action: Action, lines: Sequence[Line]) -> bool:
    name = condition.name.encode()
    values = [value for n, value in lines if n == name]
    if condition.absent:
        alike = name.replace(b"_", b"-")
        return not any(n.replace(b"_", b"-") == alike for n, _ in lines)
    if not values:
        return False
    return not condition.values or _hold(action, [_any_matches(condition.values, v, "value") for v in values])


def _upgrade_holds(entry: HttpEntry, head: Head) -> bool:
    """Without an Upgrade line an allow entry's `upgrade` asks nothing, and a deny entry's does not hold."""
    if entry.upgrade is None:
        return True
    fitting = [p.encode() for p in entry.upgrade]
    return _hold(entry.action, [not fitting or value.lower() in fitting for value in head.values(b"upgrade")])


def entry_matches(entry: HttpEntry, head: Head) -> bool:
    """Whether all that the entry says holds for a well-formed request."""
    if entry.methods and "*" not in entry.methods and head.method not in [m.encode() for m in entry.methods]:
        return False
    if not entry.paths and head.form in NAMED_FORMS:
        return False
    if entry.paths and not _any_matches(entry.paths, head.path, "path"):
        return False
    if entry.hosts and (head.host is None or not _any_matches(entry.hosts, head.host, "host")):
        return False
    lines = {"header": head.lines, "query": head.query}
    if not all(_condition_holds(c, entry.action, lines[c.kind]) for c in entry.conditions):
        return False
    return _upgrade_holds(entry, head)


class Court:
    """The allow rules that judge the requests of one connection. With `audited` the audited blocks are in force, else their rules are plain.
    `reason`: why the connection is allowed where no rule allows it."""

    def __init__(self, rules: Sequence[Rule], *, audited: bool, reason: str = "default") -> None:
        self.rules = sorted(rules, key=lambda r: r.order)
        self._reason = reason
        self._audited = audited
        self.blocks = [block for r in self.rules if (block := self._block(r)) is not None]
        self.limit = max((block.limit for block in self.blocks), default=HTTP_HEAD_LIMIT)

    def _block(self, rule: Rule) -> HttpBlock | None:
        return None if rule.http is None or (rule.http.audit and not self._audited) else rule.http

    @property
    def judges(self) -> bool:
        """Whether there is a block in force: else the connection's verdict is that of all its requests."""
        return bool(self.blocks)

    def names(self, head: Head) -> bool:
        """Whether a pattern of some entry matches a target of absolute or authority form."""
        return any(_any_matches(e.paths, head.path, "path") for block in self.blocks for e in block.entries)

    def decide(self, head: Head) -> Decision:
        """About a request whose head is complete and of sound syntax."""
        if not self.judges:
            return self._plain()
        if head.minor == 1 and head.host is None:
            return self.malformed(Saw.HOST)
        if head.form in NAMED_FORMS and not self.names(head):
            return self.malformed(Saw.TARGET)
        if head.size > self.limit:
            return self.malformed(Saw.HEAD_LIMIT)
        matching = [(r, e) for r in self.rules for e in self._matching(r, head)]
        denying = [(r, e) for r, e in matching if e is not None and e.action is Action.DENY]
        if denying:
            return Decision("deny", "l7-entry", *denying[0])
        if not matching:
            return Decision("deny", "l7-no-entry", self.rules[0])
        entries = [e for _, e in matching if e is not None]
        if head.upgrades and not any(e.upgrade is not None for e in entries):
            return self.malformed(Saw.UPGRADE)
        if head.has_unexpected_body and not any(e.body for e in entries):
            return self.malformed(Saw.BODY)
        rule, entry = matching[0]
        return Decision("allow", "rule" if entry is None else "l7-entry", rule, entry)

    def _matching(self, rule: Rule, head: Head) -> list[HttpEntry | None]:
        """None stands for a rule without a block, which matches every request."""
        block = self._block(rule)
        return [None] if block is None else [e for e in block.entries if entry_matches(e, head)]

    def malformed(self, saw: Saw) -> Decision:
        return Decision("deny", "l7-malformed", self.rules[0], saw=saw) if self.judges else self._plain()

    def _plain(self) -> Decision:
        return Decision("allow", "rule", self.rules[0]) if self.rules else Decision("allow", self._reason, None)


# --- streams --------------------------------------------------------------------------------------------------------


class HttpStream:
    """What one end says about the requests of a connection that it allows by `rules`: the matching rules of the deciding level.

    `audited`: audited blocks are in force. Else each verdict has beside it the prospective one, with them in force, by the rules `prospective`
    (None: the same; empty: none, as where the connection would be denied). Where no block is in force in either nothing is judged.
    `reason` is the connection's, of which requests have their verdict where no rule allows it."""

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        audited: bool = False,
        prospective: Sequence[Rule] | None = None,
        reason: str = "default",
        sends: bool = False,
    ) -> None:
        """`sends`: at the client's end, where what stands before a chunk passes by itself, and each chunk."""
        self._sends = sends
        self._enforced = Court(rules, audited=audited, reason=reason)
        full = Court(rules if prospective is None else prospective, audited=True)
        self._prospective = full if full.rules and not audited else None
        self._reading = self._enforced if self._enforced.judges or self._prospective is None else self._prospective
        self._log = any(r.log for r in rules)
        self._verdicts: list[RequestVerdict] = []
        self._at = 0  # the byte's place in its segment
        self._begin = 0  # of the request in this segment
        self._unanswered: list[Head] = []
        self._switching = False  # a request that may switch protocols is complete
        self._switched = False  # and was answered
        self._closed = False
        self._reader: Reader[None] | None = None
        if self._reading.judges:
            self._reader = self._read()
            next(self._reader)

    @property
    def end(self) -> End:
        return "closed" if self._closed else "open"

    @property
    def passed(self) -> int:
        """Bytes of the last segment that go on to the other end: all, or those before a denied request."""
        return self._begin if self._closed else self._at

    @property
    def unanswered(self) -> Sequence[Head]:
        """The requests that are complete and have no answer yet."""
        return tuple(self._unanswered)

    def feed(self, segment: bytes, answered: bool = True) -> list[RequestVerdict]:
        """The requests decided by these bytes. `answered`: at their end the server has answered every request that is complete."""
        self._verdicts = []
        self._at = self._begin = 0
        for byte in segment:
            self._send(byte)
            self._at += 1
        if answered:
            self.answer()
        return self._verdicts

    def answer(self) -> None:
        """The server has answered every request that is complete."""
        self._unanswered.clear()
        self._switched = self._switching

    def _send(self, byte: int) -> None:
        if self._reader is None:
            return
        try:
            self._reader.send(byte)
        except StopIteration:
            self._reader = None

    def _read(self) -> Reader[None]:
        """One request after the other; it returns where nothing more is judged."""
        while True:
            first = yield
            if self._switched:
                return
            head, sound = Head(), not self._unanswered
            self._begin = self._at
            if self._switching:
                if not self._enforced.judges:
                    return
                self._malformed(head, Saw.EARLY_BYTES, sound=False)
                return
            try:
                yield from read_head(head, first, self._reading.limit)
            except Malformed as error:
                self._malformed(head, error.saw, sound)
                return
            enforced = self._enforced.decide(head)
            prospective = None if self._prospective is None else self._prospective.decide(head)
            self._report(head, enforced, prospective, sound)
            if self._closed:
                return
            try:
                yield from read_body(head, self._reading.limit, self._at_chunk)
            except Malformed as error:
                self._malformed(head, error.saw, sound=False, again=True)
                return
            self._unanswered.append(head)
            self._switching = head.switches

    def _at_chunk(self) -> None:
        if self._sends:
            self._begin = self._at + 1

    def _malformed(self, head: Head, saw: Saw, sound: bool, *, again: bool = False) -> None:
        enforced = self._enforced.malformed(saw)
        prospective = None if self._prospective is None else self._prospective.malformed(saw)
        self._report(head, enforced, prospective, sound, again=again)

    def _report(
        self, head: Head, enforced: Decision, prospective: Decision | None, sound: bool, *, again: bool = False
    ) -> None:
        """A verdict is known. `sound`: no earlier request was unanswered when this one began, nor may its own answer be under way."""
        answer: RequestAnswer | None = None
        if enforced.verdict == "deny":
            answer = "403" if sound else "closed"
            self._closed = True
        differs = prospective is not None and prospective.verdict != enforced.verdict
        self._verdicts.append(
            RequestVerdict(
                enforced.verdict, enforced.reason, enforced.rule, enforced.entry, answer, enforced.saw,
                head.method, head.target, head.sent_path, head.sent_host, head.minor, self._log,
                prospective if differs else None, again,
            )
        )  # fmt: skip
