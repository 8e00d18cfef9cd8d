"""Values of HTTP entries: globs of paths and hosts, strings, regular expressions.

Patterns are written decoded. What no request can match, because the byte or the segment makes a request malformed, is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from policyc.check.findings import Findings
from policyc.check.regexes import check_regex
from policyc.grammar import syntax
from policyc.model import Pattern, Span

_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_SCHEME = re.compile(r"https?://")
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9.*-]+|\[[0-9A-Fa-f:.]+\]):(?:[0-9]{1,5}|\*)\Z")
_HOST_BYTE = re.compile(r"[^a-z0-9.*-]")
_LITERAL = re.compile(r"\[[0-9a-f:.]+\]\Z")
_PORT = re.compile(r"(.*[^:]|):([0-9]*|\*)\Z")


class _Never(Exception):
    """A pattern that nothing can match: from which character to which, why, and what helps."""

    def __init__(self, at: int, end: int, message: str, help: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.at = at
        self.end = end
        self.message = message
        self.help = help
        self.suggestion = suggestion


def distinct(patterns: Iterable[Pattern | None]) -> tuple[Pattern, ...]:
    """Each alternative once, those that were wrong left out."""
    first: dict[tuple[str, str], Pattern] = {}
    for pattern in patterns:
        if pattern is not None:
            first.setdefault((pattern.kind, pattern.text), pattern)
    return tuple(first.values())


def within(word: syntax.Word, at: int, end: int) -> Span:
    """The place of characters `at` to `end` (exclusive) of a string's text, where quotes and backslashes were written as escapes."""
    if (at, end) == (0, len(word.text)):
        return word.span
    start = word.span.column + 1
    first, last = (start + i + sum(c in '"\\' for c in word.text[:i]) for i in (at, end))
    limit = word.span.end_column - 1
    first = min(first, limit)
    return Span(word.span.file, word.span.line, first, word.span.line, max(min(last, limit), first + 1))


def value(node: syntax.Pattern, found: Findings) -> Pattern | None:
    """A string or a regular expression, where `*` stands for itself."""
    if node.regex:
        return _regex(node, found)
    return Pattern("string", node.word.text, node.span)


def header_value(node: syntax.Pattern, found: Findings) -> Pattern | None:
    text = node.word.text
    if not node.regex and text != text.strip(" \t"):
        help = "values are compared without the white space around them"
        suggestion = quoted(text.strip(" \t"))
        message = "no value of a header begins or ends with white space"
        found.add("bad-value", message, node.word.span, suggestion=suggestion, help=help)
        return None
    return value(node, found)


def _regex(node: syntax.Pattern, found: Findings) -> Pattern | None:
    return Pattern("regex", node.word.text, node.span) if check_regex(node.word, found) else None


def _glob(text: str, span: Span) -> Pattern:
    kind: Literal["glob", "string"] = "glob" if "*" in text else "string"
    return Pattern(kind, text, span)


def quoted(text: str) -> str:
    """The text as a string of the language."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- hosts -------------------------------------------------------------------------------------------------------


def host(node: syntax.Pattern, found: Findings) -> Pattern | None:
    """A host in small letters; a regular expression is about the host in small letters, too."""
    if node.regex:
        return _regex(node, found)
    text = node.word.text.lower()
    try:
        _check_host(text)
    except _Never as error:
        span = within(node.word, error.at, error.end)
        found.add("bad-host", error.message, span, suggestion=error.suggestion, help=error.help)
        return None
    return _glob(text, node.span)


def _check_host(text: str) -> None:
    end = len(text)
    if not text:
        raise _Never(0, 0, "a host has at least one label", "leave `host` out for any host")
    if scheme := _SCHEME.match(text):
        bare = text[scheme.end() :].partition("/")[0]
        raise _Never(0, scheme.end(), "a host has no scheme", "write the host alone", quoted(bare) if bare else None)
    if _LITERAL.match(text):
        return
    if text.count(":") > 1 and not text.startswith("["):
        raise _Never(0, end, "an IPv6 address stands in brackets", 'as in host "[2001:db8::1]"', quoted(f"[{text}]"))
    if port := _PORT.match(text):
        help = "the port is that of the rule's services; hosts are compared without it"
        raise _Never(port.end(1), end, "a host has no port here", help, quoted(port[1]) if port[1] else None)
    if text.endswith("."):
        help = "hosts are compared without the dot at their end"
        raise _Never(
            end - 1, end, "a host does not end with a dot here", help, quoted(text[:-1]) if text[:-1] else None
        )
    if bad := _HOST_BYTE.search(text):
        help = "the bytes of a host are letters, digits, `-` and `.`, and brackets around an IPv6 address"
        if not text.isascii():
            help = "write the name as it is sent, in punycode: xn--…"
        elif bad[0] in "/?#":
            help = "paths stand before `host`, in a string of their own"
        raise _Never(bad.start(), bad.end(), f"no host has `{bad[0]}`", help)
    at = 0
    for label in text.split("."):
        if not label:
            raise _Never(at, at + 1, "a label of this host is empty", "remove a dot")
        if "**" in label and label != "**":
            help = "`*` stands for bytes of one label, `**` for one or more labels"
            raise _Never(at, at + len(label), "`**` is a whole label", help)
        at += len(label) + 1


# --- paths -------------------------------------------------------------------------------------------------------


def paths(entry: syntax.HttpEntry, methods: tuple[str, ...], found: Findings) -> tuple[Pattern, ...]:
    """The paths of an entry with these methods (none: any); what is wrong is reported."""
    result = distinct(_path(node, methods, found) for node in entry.paths)
    connect = next((w for w in entry.methods if w.text == "CONNECT"), None)
    denies = entry.action is not None and entry.action.text == "deny"
    if connect is not None and not entry.paths and not denies:
        help = 'name whom: CONNECT "proxy.example:443"'
        found.add("bad-path", "`CONNECT` without a target matches nothing", connect.span, help=help)
    return result


def _path(node: syntax.Pattern, methods: tuple[str, ...], found: Findings) -> Pattern | None:
    if node.regex:
        return _regex(node, found)
    text = node.word.text
    try:
        _check_path(text, methods)
    except _Never as error:
        span = within(node.word, error.at, error.end)
        found.add("bad-path", error.message, span, suggestion=error.suggestion, help=error.help)
        return None
    return Pattern("string", text, node.span) if text == "*" else _glob(text, node.span)


def _check_path(text: str, methods: tuple[str, ...]) -> None:
    end = len(text)
    if text == "*":
        if "OPTIONS" not in methods:
            help = 'leave the path out for any, or write "/**"'
            raise _Never(0, 1, "the path `*` is only that of `OPTIONS *`", help, '"/**"')
        return
    scheme = _SCHEME.match(text)
    authority = _AUTHORITY.match(text)
    if authority and methods and "CONNECT" not in methods:
        raise _Never(0, end, "only CONNECT has a target like this", "a path begins with `/`")
    if methods == ("CONNECT",) and not authority:
        raise _Never(0, end, "the target of CONNECT is a host and a port", 'as in CONNECT "proxy.example:443"')
    if authority:
        return
    if not scheme and not text.startswith("/"):
        help = "a path begins with `/`; `*` is that of OPTIONS, `http://…` absolute, HOST:PORT that of CONNECT"
        raise _Never(0, end, "this matches no path", help, _with_slash(text))
    _bytes(text)
    start = scheme.end() if scheme else 0
    if scheme and text[start : start + 1] in ("", "/"):
        raise _Never(0, end, "there is no host behind the scheme", "as in http://api.example/**")
    _segments(text, start if scheme else 1)


def _with_slash(text: str) -> str | None:
    """The path with a `/` before it, if nothing else is wrong with it."""
    try:
        _check_path(f"/{text}", ())
    except _Never:
        return None
    return quoted(f"/{text}")


_BYTES = re.compile(r"[?#\\\t]|%[0-9A-Fa-f]{2}")


def _bytes(text: str) -> None:
    bad = _BYTES.search(text)
    if bad is None:
        return
    at, end = bad.span()
    if bad[0] == "?":
        help = 'a path stands without its query; write `query "KEY" "VALUE"`'
        raise _Never(at, end, "a path has no `?`", help, quoted(text[:at]) if at > 1 else None)
    if bad[0] == "#":
        raise _Never(at, end, "a path has no `#`", "clients do not send fragments; leave it out")
    if bad[0] == "\\":
        raise _Never(at, end, "a request with a backslash in its path is malformed", "segments are divided by `/`")
    if bad[0] == "\t":
        raise _Never(at, end, "a request with a tab in its path is malformed", "remove it")
    byte = int(bad[0][1:], 16)
    help = "patterns are written decoded: a request's escapes are decoded before it is compared"
    if byte < 0x20 or byte == 0x7F or chr(byte) in "/\\":
        raise _Never(at, end, "a request with this escape in its path is malformed", help)
    raise _Never(at, end, "this is an escape", help, _decoded(text))


def _decoded(text: str) -> str | None:
    """The pattern with its escapes decoded, if that is one to suggest."""
    data = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), text.encode())
    decoded = data.decode("utf-8", "replace")
    return (
        quoted(decoded) if decoded.isprintable() and "\ufffd" not in decoded and not _ESCAPE.search(decoded) else None
    )


def _segments(text: str, at: int) -> None:
    """The segments of a path from character `at` on, which stands behind a `/`."""
    parts = text[at:].split("/")
    for index, segment in enumerate(parts):
        end = at + len(segment)
        if not segment and index < len(parts) - 1:
            raise _Never(at - 1, at + 1, "a request with `//` in its path is malformed", "write one `/`")
        if segment.partition(";")[0] in (".", ".."):
            raise _Never(
                at, end, "a request with `.` or `..` as a segment is malformed", "write the path that is meant"
            )
        if "**" in segment and segment != "**":
            help = "`*` stands for bytes of one segment, `**` for any number of segments"
            raise _Never(at, end, "`**` is a whole segment", help)
        at = end + 1
