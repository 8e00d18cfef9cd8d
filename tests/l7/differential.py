"""Streams through the reference evaluator and through the programs in this kernel, on real sockets: verdicts, reasons, entries and answers must be equal,
and the server must read exactly the bytes that the evaluator lets pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from policyc.answers import Outcome, RequestAnswer
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import Saw
from policyc.codegen.stream_programs import BODY, FORBIDDEN
from policyc.engine import request_answer
from policyc.frontend import load
from policyc.kernel_engine import compile_policy
from policyc.kernel_requests import Reports
from policyc.model import Direction, Endpoint, PolicySet
from policyc.reference.http import HttpStream
from policyc.reference.http_head import Head
from policyc.reference.verdict import Judgement, Traffic, judge
from policyc.reference.world import Address, World
from policyc.runtime import requests
from tests.l7 import differential_player as player
from tests.l7.differential_case import Case, Ground, ground
from tests.l7.differential_player import Place, Script, Seen, Write
from tests.l7.place import HOMES, LOAD, Scene

TCP = 6
FILLERS = {True: (b"\r\n", b"\0\0"), False: (b"\0",)}  # by `Expected.egress`
# Bytes of a write which the kernel may deliver in several buffers. It cannot shorten one to more than 16,064 bytes (SKB_MAX_ALLOC): what stands
# before a denied request is lost there, with it.
LONG = 14000
PATIENCE_S = 120
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"
CONNECTED = b"HTTP/1.1 200 OK\r\n\r\n"

Compiler = Callable[[PolicySet], Artifact]


def checked(text: str) -> PolicySet:
    """A policy from its text. Raises ValueError where it has errors."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "case.pol"
        path.write_text(text)
        found = load([str(path)])
    if found.policy is None:
        raise ValueError("\n".join(f"{d.span}: {d.message}" for d in found.diagnostics if d.severity == "error"))
    return found.policy


# --- what should happen -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """`deciding`: the offset of the byte behind which nothing may reach the server."""

    script: Script
    requests: tuple[RequestAnswer, ...]
    judgement: Judgement
    egress: bool
    stream: bytes
    through: int
    deciding: int

    def without_filler(self, read: bytes) -> bytes:
        """Without the bytes of ours with which a denied stream ends: a client's with an empty line, or NULs within a request, which acknowledged have its
        socket close; at a server that has a part of a body one NUL."""
        if not self.script.writes or not self.script.writes[-1].denied:
            return read
        filler = next((f for f in FILLERS[self.egress] if read.endswith(f)), b"")
        return read[: len(read) - len(filler)]


def response(head: Head) -> bytes:
    if head.method == b"CONNECT":
        return CONNECTED
    return SWITCHED if head.upgrades else OK


def judge_stream(judgement: Judgement, egress: bool = False) -> HttpStream:
    return HttpStream(judgement.rules, prospective=judgement.prospective_rules, reason=judgement.reason, sends=egress)


def expect(case: Case, port: int, judgement: Judgement, egress: bool = False) -> Expected:
    stream = judge_stream(judgement, egress)
    writes: list[Write] = []
    verdicts = []
    through = sent = 0
    late = b""
    for segment in case.segments:
        verdicts += stream.feed(segment.data, answered=False)
        through, sent = sent + stream.passed, sent + len(segment.data)
        if stream.end == "closed":
            writes.append(Write(segment.data, through, denied=True))
            late = b"".join(map(response, stream.unanswered))
            break
        answer = b""
        if segment.answered:
            answer = b"".join(map(response, stream.unanswered))
            stream.answer()
        writes.append(Write(segment.data, through, answer))
    refusal = b""
    if verdicts and verdicts[-1].answer == "403":
        refusal = FORBIDDEN if verdicts[-1].method == b"HEAD" else FORBIDDEN + BODY
    requests = tuple(map(request_answer, verdicts))
    script = Script(port, tuple(writes), len(requests), refusal, late)
    return Expected(script, requests, judgement, egress, case.stream, through, sent)


# --- what happened ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """`kind` is the same for differences that are probably of one cause."""

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass
class Played:
    """`differences` by the case's place among the cases."""

    differences: dict[int, Difference] = field(default_factory=dict)
    streams: int = 0
    requests: int = 0
    bytes: int = 0
    answers: Counter[tuple[str, str, str | None]] = field(default_factory=Counter)

    def add(self, other: Played) -> None:
        offset = self.streams
        self.differences |= {offset + at: text for at, text in other.differences.items()}
        self.streams += other.streams
        self.requests += other.requests
        self.bytes += other.bytes
        self.answers += other.answers


def compare(expected: Expected, seen: Seen, reports: Reports, closing: bool) -> Difference | None:
    """What differs, or None. `closing`: a denied stream must have ended at both sides."""
    told = _told(expected, seen, reports)
    if seen.stuck:
        also = told.text if told is not None else "the reports are as they should be"
        return Difference("stuck", f"stuck {seen.stuck}; {also}")
    last = requests.fields(seen.events[-1]) if seen.events else {"verdict": True}
    if told is None and len(seen.events) > len(expected.requests) and not last["verdict"]:  # `_ahead`
        whole = _begin(expected, b"\r\n") <= len(seen.read) and expected.stream.startswith(seen.read)
        return None if whole else Difference("bytes", f"the server read {seen.read[-60:]!r}")
    return told or _bytes(expected, seen) or _answers(expected, seen) or _ends(expected, seen, closing)


VALUES = {Saw.HEADER_VALUE, Saw.HOST, Saw.CONTENT_LENGTH, Saw.TRANSFER_ENCODING}


def _same_fault(one: RequestAnswer, other: RequestAnswer) -> RequestAnswer:
    """The first, with the other's fault where both are of one line's value: of two the evaluator tells what bytes never mean, the program the first."""
    return replace(one, saw=other.saw) if {one.saw, other.saw} <= VALUES else one


def _told(expected: Expected, seen: Seen, reports: Reports) -> Difference | None:
    told = [reports.request(record, expected.judgement.rules) for record in seen.events]
    for number, (one, other) in enumerate(zip(told, expected.requests, strict=False)):
        if _same_fault(one, other) != other:
            parts = [f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)]
            return Difference(", ".join(parts), f"request {number} is {words(one)}, should be {words(other)}")
    if len(told) == len(expected.requests) or _ahead(expected, told):
        return None
    kind = "too many requests" if len(told) > len(expected.requests) else "too few requests"
    more = told[len(expected.requests) :] or expected.requests[len(told) :]
    return Difference(kind, f"{len(told)} requests instead of {len(expected.requests)}; {words(more[0])}")


def _ahead(expected: Expected, told: Sequence[RequestAnswer]) -> bool:
    """Whether there is one request more, of which the evaluator will say the same when its line has ended: the stream ends within it."""
    whole = judge_stream(expected.judgement)
    whole.feed(expected.stream)
    then = [request_answer(r) for r in whole.feed(b"\r\n")]
    one_more = len(told) == len(expected.requests) + 1 and bool(then)
    return one_more and _is_malformed(then[-1]) and _is_malformed(told[-1])


def _is_malformed(request: RequestAnswer) -> bool:
    """In force or prospectively."""
    return "l7-malformed" in (request.outcome.reason, request.audit and request.audit.reason)


def _bytes(expected: Expected, seen: Seen) -> Difference | None:
    read, should = seen.read, expected.stream[: expected.through]
    without = expected.without_filler(read)
    if should in (read, without):
        return None
    writes = expected.script.writes
    read = without
    if writes and writes[-1].denied and expected.stream.startswith(read):
        # Nothing of an earlier request is kept back.
        if _denies_early(expected) and _begin(expected) <= len(read) < expected.through:
            return None
        # Of a long write the buffers before the one with the deciding byte were delivered, be they part of the head.
        if _long(expected) and expected.deciding - len(writes[-1].data) <= len(read) < expected.deciding:
            return None
    kind = "too many bytes" if len(read) > len(should) else "too few bytes"
    return Difference(
        kind, f"the server read {len(read)} bytes …{read[-60:]!r}, should be {len(should)} …{should[-60:]!r}"
    )


def _answers(expected: Expected, seen: Seen) -> Difference | None:
    got, script = seen.received, expected.script
    should = b"".join(w.answer for w in script.writes) + script.refusal
    if got == should or (got.startswith(should) and (should + script.late).startswith(got)):
        return None
    if (
        _long(expected)
        and got.startswith(should + FORBIDDEN)
        and (should + FORBIDDEN + BODY + script.late).startswith(got)
    ):
        return None  # nothing of the buffer was passed, and the refusal answers its first request
    if _denies_early(expected) and not script.refusal and should.startswith(got):
        return None  # what was to be answered next stood in the write in which the denial was certain
    return Difference(
        "answers", f"the client got {got[-200:]!r} ({len(got)}), should be {should[-200:]!r} ({len(should)})"
    )


def _ends(expected: Expected, seen: Seen, closing: bool) -> Difference | None:
    writes, ends = expected.script.writes, (seen.client_end, seen.server_end)
    denied = bool(writes) and writes[-1].denied
    if not denied and ends != ("open", "open"):
        return Difference("ends", f"not denied, but the ends are {ends}")
    if expected.script.closes and closing and "open" in ends:
        return Difference("not closed", f"denied, but the ends are {ends}")
    return None


def _long(expected: Expected) -> bool:
    """Whether the denied request stands in a write which the kernel may be unable to shorten."""
    writes = expected.script.writes
    return bool(writes) and writes[-1].denied and len(writes[-1].data) > LONG


def _denies_early(expected: Expected) -> bool:
    """Whether the denial may be certain to the program before the evaluator says so."""
    return bool(expected.requests) and expected.requests[-1].outcome.reason == "l7-malformed"


def _begin(expected: Expected, more: bytes = b"") -> int:
    """Where the denied request begins in the stream, with `more` behind it."""
    whole = judge_stream(expected.judgement, expected.egress)
    whole.feed(expected.stream + more)
    return whole.passed


def words(request: RequestAnswer) -> str:
    def outcome(o: Outcome) -> str:
        return f"{o.verdict} {o.reason} {o.ref}"

    audit = "" if request.audit is None else f" audit({outcome(request.audit)})"
    text = f"{request.method} {request.path} {request.host}"
    return f"{outcome(request.outcome)} answer={request.answer} saw={request.saw.name} [{text}]{audit}"


# --- the kernel ---------------------------------------------------------------------------------------------------------


def number_of(text: str) -> Address:
    address = ip_address(text)
    return ("6" if address.version == 6 else "4", int(address))


class Judge:
    """What the evaluator says of connections from `web` to a port of `api`, at the server's end or (`egress`) at the client's."""

    def __init__(self, policy: PolicySet, version: int = 4, egress: bool = False) -> None:
        endpoints = [
            Endpoint(name, tuple(number_of(home.partition("/")[0]) for home in homes), {"app": name})
            for name, homes in HOMES.items()
            if name != "world"
        ]
        self._world = World(policy, endpoints, ())
        ends = [number_of(HOMES[n][version == 6].partition("/")[0]) for n in ("api", "web")]
        self._local, self._remote = reversed(ends) if egress else ends
        self._direction = Direction.EGRESS if egress else Direction.INGRESS
        self._known: dict[int, Judgement] = {}

    def port(self, port: int) -> Judgement:
        if port not in self._known:
            subject = self._world.subject(self._local)
            assert subject is not None
            self._known[port] = judge(self._world, subject, self._direction, self._remote, Traffic(TCP, port))
        return self._known[port]

    def allows(self, port: int, request: bytes) -> bool:
        """Whether a request of its own is whole and allowed."""
        stream = judge_stream(self.port(port))
        told = stream.feed(request, answered=False)
        whole = len(stream.unanswered) == 1 and len(told) == 1
        return stream.end == "open" and (whole or not self.port(port).rules)


def draw(seed: int, ports: int, streams: int, version: int = 4, egress: bool = False) -> tuple[Ground, list[Case]]:
    """Random rules for so many ports, and so many streams for each."""
    from tests.l7 import random_http  # not where cases are only played: Hypothesis is of this machine's architecture

    r = Random(seed)
    on = Ground(tuple(dict.fromkeys(random_http.rules(r) for _ in range(ports))), egress)
    judge_ = Judge(checked(on.text), version, egress)
    cases = [
        random_http.case(
            r, f"seed {seed} port {port} stream {n}", rules, lambda data, port=port: judge_.allows(port, data)
        )
        for rules, port in on.ports.items()
        if judge_.port(port).verdict == "allow"
        for n in range(streams)
    ]
    return on, cases


class Kernel:
    """A scene's client and server in one agent; loads policies one after the other."""

    def __init__(self, scene: Scene, version: int = 4, compiler: Compiler = compile_policy) -> None:
        self.scene, self.version, self.compiler = scene, version, compiler
        self.agent = scene.agent("web")
        self._folder = scene.folder / "differential"
        self._folder.mkdir(exist_ok=True)

    @contextmanager
    def loaded(self, on: Ground) -> Iterator[Loaded]:
        policy = checked(on.text)
        artifact = self.compiler(policy)
        path = self._folder / "ground.o"
        path.write_bytes(artifact.object)
        endpoints = self.scene.endpoints({"web" if on.egress else "api": "cgroup"})
        self.scene.operator.load(path, "--endpoints", str(endpoints), "--events", "all", name=LOAD)
        try:
            pins = self.scene.folder / "bpf" / LOAD
            places = [self._place(name) for name in ("api", "web")]
            ends = [self.scene.address(name, self.version) for name in ("api", "web")]
            self.agent.call(player.open_player, *places, *ends, str(pins / "events"), str(pins / "lost"))
            yield Loaded(self, on, Judge(policy, self.version, on.egress), Reports(artifact.manifest, policy))
        finally:
            self.agent.call(player.close_player)
            self.scene.unload()

    def _place(self, name: str) -> Place:
        return Place(f"/proc/{self.scene.namespace(name).pid}/ns/net", str(self.scene.groups[name]))


class Loaded:
    """A ground in the kernel."""

    def __init__(self, kernel: Kernel, on: Ground, judge_: Judge, reports: Reports) -> None:
        self._kernel, self._ground, self._judge, self._reports = kernel, on, judge_, reports

    def play(self, cases: Sequence[Case], closing: bool = False) -> Played:
        """Cases whose connection is denied are passed over. `closing`: denied ones are waited for until they are closed."""
        ports = [self._ground.ports[case.rules] for case in cases]
        judgements = [self._judge.port(port) for port in ports]
        live = [n for n, j in enumerate(judgements) if j.verdict == "allow"]
        expected = {n: expect(cases[n], ports[n], judgements[n], self._ground.egress) for n in live}
        done = self._kernel.agent.call(player.play, [expected[n].script for n in live], closing, patience=PATIENCE_S)
        played = Played(streams=len(cases))
        for n, seen in zip(live, done.seen, strict=True):
            different = compare(expected[n], seen, self._reports, closing)
            if different is not None:
                played.differences[n] = replace(different, text=f"{cases[n].name}: {different}")
            played.requests += len(expected[n].requests)
            played.bytes += len(expected[n].stream)
            for request in expected[n].requests:
                played.answers[request.outcome.verdict, request.outcome.reason, request.answer] += 1
        if done.lost:
            played.differences.setdefault(0, Difference("lost", f"{done.lost} events were lost"))
        return played


def play(kernel: Kernel, cases: Sequence[Case], closing: bool = False, egress: bool = False) -> Played:
    """With a load of their own."""
    with kernel.loaded(ground(cases, egress)) as loaded:
        return loaded.play(cases, closing)


def same(done: Played) -> None:
    """Fails with what differs."""
    differences = [str(d) for d in done.differences.values()]
    assert differences == [], f"{len(differences)} of {done.streams} streams differ"
