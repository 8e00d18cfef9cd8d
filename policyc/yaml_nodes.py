"""YAML (and so JSON) text to plain nodes with places, without anything that executes, shares or multiplies.

Built from parser events: anchors, aliases, tags, merge keys, several documents and deep nesting are refused, so that a
small text cannot become a large value and no depth of brackets exhausts a stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from policyc.model import Span

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

DEPTH_LIMIT = 16
NODE_LIMIT = 2_000_000
_STRING = "tag:yaml.org,2002:str"
_KINDS = {"int": "a number", "float": "a number", "bool": "a boolean", "null": "null", "timestamp": "a date"}
_SURROGATES = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)


@dataclass(frozen=True)
class Scalar:
    """`text` is what stands there. `kind` is empty for a string, else what YAML takes it for ('a number')."""

    text: str
    kind: str
    span: Span


@dataclass(frozen=True)
class Sequence:
    items: tuple[Node, ...]
    span: Span


@dataclass(frozen=True)
class Mapping:
    """Pairs in the order of the text, equal keys not yet refused."""

    pairs: tuple[tuple[Node, Node], ...]
    span: Span


Node = Scalar | Sequence | Mapping


class Refused(Exception):
    """The text is no acceptable YAML. `kind` is `syntax`, `feature` or `size`."""

    def __init__(self, kind: str, message: str, span: Span) -> None:
        super().__init__(message)
        self.kind, self.message, self.span = kind, message, span


def parse_nodes(text: str, file: str) -> Node | None:
    """The one document of a text, None if it is empty. Raises Refused."""
    builder = _Builder(file)
    try:
        for event in yaml.parse(_as_yaml(text), Loader=Loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Refused("syntax", error.problem or "not YAML", _inside(text, _span(file, mark, mark))) from None
    except yaml.reader.ReaderError as error:
        raise Refused("syntax", f"a character that YAML does not allow: {error.reason}", _start(file)) from None
    except yaml.YAMLError:
        raise Refused("syntax", "not YAML", _start(file)) from None
    return builder.root


def _as_yaml(text: str) -> str:
    """JSON that YAML 1.1 does not read: tabs between tokens, characters written as a pair of escapes."""
    if text.lstrip()[:1] not in ("{", "[") or ("\t" not in text and "\\u" not in text):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _SURROGATES.sub(_join_surrogates, text.replace("\t", " "))


def _join_surrogates(match: re.Match[str]) -> str:
    high, low = match.groups()
    if high is None:
        return match[0]
    return f"\\U{0x10000 + (int(high, 16) - 0xD800) * 0x400 + int(low, 16) - 0xDC00:08x}"


def _start(file: str) -> Span:
    return Span(file, 1, 1, 1, 1)


def _inside(text: str, span: Span) -> Span:
    """A place after the last line is the end of that line."""
    lines = text.splitlines() or [""]
    if span.line <= len(lines):
        return span
    end = len(lines[-1]) + 1
    return Span(span.file, len(lines), end, len(lines), end)


def _span(file: str, start: Any, end: Any) -> Span:
    if start is None or end is None:
        return _start(file)
    return Span(file, start.line + 1, start.column + 1, end.line + 1, end.column + 1)


class _Builder:
    """Takes events one by one; `root` is the document."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self._file = file
        self._open: list[tuple[Any, list[Node]]] = []  # start event, nodes in it
        self._documents = 0
        self._nodes = 0

    def take(self, event: Any) -> None:
        span = _span(self._file, event.start_mark, event.end_mark)
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise Refused("feature", "a second document begins here; one is read", span)
            case yaml.AliasEvent():
                raise Refused("feature", "aliases are not read; write the value out", span)
            case yaml.ScalarEvent():
                self._refuse_properties(event, span)
                self._add(Scalar(event.value, _kind(event), span))
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._refuse_properties(event, span)
                if len(self._open) >= DEPTH_LIMIT:
                    raise Refused("feature", f"nested deeper than {DEPTH_LIMIT} levels", span)
                self._open.append((event, []))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._close(event)

    def _refuse_properties(self, event: Any, span: Span) -> None:
        if event.anchor is not None:
            raise Refused("feature", "anchors are not read", span)
        if event.tag is not None and event.tag != "!":
            raise Refused("feature", "tags are not read", span)

    def _close(self, event: Any) -> None:
        start, nodes = self._open.pop()
        if isinstance(event, yaml.SequenceEndEvent):
            self._add(Sequence(tuple(nodes), _span(self._file, start.start_mark, event.end_mark)))
            return
        span = _span(self._file, start.start_mark, event.end_mark)
        self._add(Mapping(tuple(_pairs(nodes)), span))

    def _add(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > NODE_LIMIT:
            raise Refused("size", f"more than {NODE_LIMIT:,} values", node.span)
        if self._open:
            self._open[-1][1].append(node)
        else:
            self.root = node


def _pairs(nodes: list[Node]) -> Iterator[tuple[Node, Node]]:
    return zip(nodes[::2], nodes[1::2], strict=True)


def _kind(event: Any) -> str:
    """What YAML 1.1 takes a scalar for; empty for a string."""
    if event.style:
        return ""
    text: str = event.value
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], []):
        if pattern.match(text):
            name = tag.rpartition(":")[2]
            return "" if tag == _STRING else _KINDS.get(name, "a YAML operator")
    return ""
