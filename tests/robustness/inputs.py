"""Random bad input of each kind from a seed, and what has to hold for it: no exception but the documented ones, findings
with places inside the text, valid JSON, a formatter that changes no word, and an end in time."""

from __future__ import annotations

import base64
import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from types import FrameType

from policyc import endpoints
from policyc.artifact import manifest as manifests
from policyc.artifact import policy_json, reader, seal
from policyc.artifact.elf import HEADER, SECTION_HEADER, ElfError
from policyc.artifact.shape import Node
from policyc.cli.inspect import describe
from policyc.diagnostics import Diagnostic, OperationError, PolicyError
from policyc.evaluate import evaluate
from policyc.frontend import load
from policyc.grammar import lexer
from policyc.grammar.format import format_file
from policyc.ir.pipeline import build
from policyc.ir.text import print_module
from policyc.reference.world import World
from policyc.render import render, render_json
from tests.artifact.objects import artifact, minimal_object, rich_policy
from tests.robustness.programs import broken, damaged, program, sound

LIMIT = 20  # seconds for one input


class TooSlow(BaseException):
    """Not an `Exception`, so that nothing takes it for an error of the input."""


@contextmanager
def ends_in_time(seconds: float = LIMIT) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- policies -----------------------------------------------------------------------------------------------------


def policy(random: Random) -> bytes:
    text = program(random) if random.random() < 0.5 else sound(random)
    if random.random() < 0.6:
        text = broken(random, text)
    data = text.encode("utf-8", "surrogatepass")
    return damaged(random, data) if random.random() < 0.15 else data


def check_policy(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="policyc-input-") as folder:
        file = Path(folder, "x.pol")
        file.write_bytes(data)
        result = load([str(file)])
    check_findings(result.diagnostics, result.sources)
    for text in result.sources.values():
        _check_format(text)
    if result.policy is None:
        assert any(d.severity == "error" for d in result.diagnostics)
        return
    document = json.loads(json.dumps(policy_json.encode(result.policy)))
    assert policy_json.decode(Node(document)) == result.policy
    try:
        print_module(build(result.policy))
    except OperationError:  # over a documented limit
        pass


def check_findings(found: list[Diagnostic], sources: dict[str, str]) -> None:
    render(found, sources)
    assert len(json.loads(render_json(found))["diagnostics"]) == len(found)
    for d in found:
        if d.span is None or d.span.file not in sources:
            continue
        lines = sources[d.span.file].split("\n")
        assert 1 <= d.span.line <= len(lines)
        assert 1 <= d.span.column <= len(lines[d.span.line - 1]) + 1


def _check_format(text: str) -> None:
    try:
        formatted = format_file(text)
    except PolicyError:
        return
    assert format_file(formatted) == formatted
    words = [[(t.type, t.text) for t in lexer.tokens(t, "x", [])[0]] for t in (text, formatted)]
    assert words[0] == words[1]


# --- artifacts ----------------------------------------------------------------------------------------------------


@cache
def _sound_artifact() -> bytes:
    return artifact()


EDGES = (0, 1, 2, 3, 7, 8, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
JUNK = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2**32,
    2**64,
    10**400,
    1.5,
    "",
    "host",
    "\x1b[2J",
    "\ud800",
    [],
    {},
    [[]],
    "x" * 9999,
)


def object_file(random: Random) -> bytes:
    """A sound artifact with its container or its manifest damaged; mostly sealed again."""
    if random.random() < 0.5:
        data = manifest_with_junk(random)
    else:
        data = container_damaged(random, _sound_artifact())
    if random.random() < 0.1:
        return damaged(random, data)
    try:
        return seal.seal(data)
    except ElfError:
        return data


def container_damaged(random: Random, sound: bytes) -> bytes:
    """Fields of the ELF header and of section headers, and bytes of sections, with other values."""
    data = bytearray(sound)
    *_, table, _, _, _, _, _, count, _ = HEADER.unpack_from(sound)
    for _ in range(random.choice([1, 1, 2, 4])):
        if random.random() < 0.2:
            data[random.randrange(HEADER.size)] = random.randrange(256)
        elif random.random() < 0.5:
            at = table + random.randrange(count) * SECTION_HEADER.size
            row = list(SECTION_HEADER.unpack_from(data, at))
            which = random.randrange(len(row))
            value = random.choice([*EDGES, row[which] + 1, row[which] - 1, row[which] ^ 1 << random.randrange(32)])
            row[which] = value & (0xFFFFFFFF if which in (0, 1, 6, 7) else (1 << 64) - 1)
            SECTION_HEADER.pack_into(data, at, *row)
        else:
            data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data)


def manifest_with_junk(random: Random) -> bytes:
    """A manifest in which one to three values are others, keys are lost, or lists are long."""
    from policyc.artifact import writer

    document = manifests.to_json(reader.read(_sound_artifact()).manifest)
    for _ in range(random.choice([1, 1, 2, 3])):
        holder, key = _somewhere(random, document)
        match random.randrange(4):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, list):
                holder *= random.choice([2, 50])
            case _:
                holder[key] = random.choice(JUNK)
    return writer.attach(minimal_object(), json.dumps(document).encode())


def _somewhere(random: Random, document: object) -> tuple[object, object]:
    """A place in a document: what holds it, and its key or index."""
    holder, key = document, random.choice(list(document))
    while isinstance(holder[key], (dict, list)) and holder[key] and random.random() < 0.8:
        holder = holder[key]
        key = random.randrange(len(holder)) if isinstance(holder, list) else random.choice(list(holder))
    return holder, key


def check_object(data: bytes) -> None:
    refused: OperationError | None = None
    refused: OperationError | None = None
    try:
        found = reader.read(data)
        assert found.policy is not None
        for line in describe(found):
            assert isinstance(line, str)
    except OperationError as error:
        refused = error
    assert refused is None or (refused.exit_code == 2 and refused.message.isprintable())


# --- endpoints and flows --------------------------------------------------------------------------------------------

ENDPOINTS = """version: 1
host: [192.0.2.1, "2001:db8::1"]
endpoints:
  - {name: web-1, addresses: [10.0.0.1, "2001:db8::2"], labels: {app: web, "env": "1"}, interface: veth0}
  - name: db-1
    addresses: [10.0.0.2]
    labels: {app: db}
    cgroup: /sys/fs/cgroup/db
"""
YAML = (
    "&a ",
    "*a",
    "!!int ",
    "<<: ",
    "---",
    "...",
    "? ",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "|",
    ">",
    "%YAML 9.9",
    "\t",
    "'",
    '"',
)
YAML += (
    "\0",
    "\ufeff",
    "\x85",
    "\u2028",
    "\ud800",
    "[" * 100,
    "{a: " * 100,
    "9" * 5000,
    "~",
    "null",
    "2001-01-01",
    "0x1f",
    "1e9",
    ".inf",
)
YAML += (
    "host",
    "::ffff:1.2.3.4",
    "fe80::1%eth0",
    "10.0.0.1/8",
    "../..",
    "x" * 300,
    "\\ud83d\\ude00",
    '"\\ud83d"',
    "\x1b[31m",
    ",",
    "\r",
)


def endpoints_file(random: Random) -> bytes:
    text = ENDPOINTS
    if random.random() < 0.3:
        text = json.dumps({"version": 1, "endpoints": [{"name": "a", "labels": {"k": "v"}, "addresses": ["10.0.0.9"]}]})
    for _ in range(random.choice([0, 1, 1, 2, 4])):
        at = random.randrange(len(text) + 1)
        text = text[:at] + random.choice(YAML) + text[at + random.choice([0, 0, 1, 3, 9]) :]
    data = text.encode("utf-8", "surrogatepass")
    return damaged(random, data) if random.random() < 0.3 else data


def check_endpoints(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="policyc-input-") as folder:
        file = Path(folder, "e.yaml")
        file.write_bytes(data)
        loaded = endpoints.load(str(file))
    assert (loaded.file is None) == any(d.severity == "error" for d in loaded.diagnostics)
    render(loaded.diagnostics, loaded.sources)
    assert json.loads(render_json(loaded.diagnostics))["format"] == "policyc-diagnostics"
    for d in loaded.diagnostics:
        assert d.span is None or (d.span.line >= 1 and d.span.column >= 1)
    if loaded.file is not None:
        World(rich_policy(), loaded.file.endpoints, loaded.file.host)


FLOW = {"src": "192.0.2.9", "dst": "192.0.2.1", "proto": "tcp", "dport": 80, "sport": 5, "direction": "ingress"}


REQUEST = b"POST /a%2e/b?k=v HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n"


def http(random: Random) -> dict[str, object]:
    """The `http` of a flow line: the fields of a request, some of them wrong, or bytes."""
    if random.random() < 0.5:
        fields: dict[str, object] = {
            "method": "GET",
            "path": "/a",
            "host": "x",
            "query": "k=v",
            "headers": [["N", "v"]],
            "version": "1.0",
        }
        fields[random.choice([*fields, "stream"])] = random.choice(JUNK[:-1])
        return {k: v for k, v in fields.items() if random.random() < 0.9}
    segments = [base64.b64encode(damaged(random, REQUEST * 2)).decode() for _ in range(3)]
    return {"segments": segments} if random.random() < 0.5 else {"stream": segments[0]}


def flow_line(random: Random) -> bytes:
    flow: dict[str, object] = {k: v for k, v in FLOW.items() if random.random() < 0.9}
    for _ in range(random.choice([0, 1, 1, 2])):
        keys = [*FLOW, "icmp_type", "icmp_code", "http", "x", "\ud800"]
        flow[random.choice(keys)] = random.choice(
            [*JUNK[:-1], "::1", "10.0.0.0/8", "fe80::1%a", 65536, "icmp", 58, 255, "udp"]
        )
    if random.random() < 0.4:
        flow["http"] = http(random)
    line = json.dumps(flow).encode()
    if random.random() < 0.2:
        depth = random.choice([10, 900, *range(960, 1010), 5000, 60000])
        line = line[:-1] + b', "src": ' + b"[" * depth + b"]" * depth + b"}"
    return damaged(random, line) if random.random() < 0.4 else line


PAGES = 'policy pages for host { ingress { allow from any on tcp/80 http { GET "/a" POST "/a./*" query "k" } } }\n'


@cache
def _judges() -> list[object]:
    from policyc.engine import ReferenceEngine

    with tempfile.TemporaryDirectory(prefix="policyc-input-") as folder:
        file = Path(folder, "pages.pol")
        file.write_text(PAGES)
        pages = load([str(file)]).policy
    assert pages is not None
    return [ReferenceEngine(rich_policy(), (), ()), ReferenceEngine(pages, (), [("4", 0xC0000201)])]


def check_flow(line: bytes) -> None:
    for judge in _judges():
        answers = list(evaluate([line], judge))
        assert len(answers) == 1
        assert json.loads(json.dumps(answers[0])) == answers[0]


# --- all --------------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Callable[[Random], bytes], Callable[[bytes], None]]] = {
    "policy": (policy, check_policy),
    "object": (object_file, check_object),
    "endpoints": (endpoints_file, check_endpoints),
    "flow": (flow_line, check_flow),
}


def check(kind: str, seed: int) -> bytes:
    """Makes and checks the input of a seed; the input. Raises whatever is wrong."""
    make, holds = KINDS[kind]
    data = make(Random(seed))
    with ends_in_time():
        holds(data)
    return data
