"""The request of an expectation."""

from __future__ import annotations

import re

from policyc.check import http_words
from policyc.check.findings import Findings
from policyc.check.http import not_tcp
from policyc.check.http_patterns import quoted, within
from policyc.grammar import syntax
from policyc.model import HttpExpectation, Service

# What a client can send as a target: a path, `*`, an absolute form, an authority.
_TARGET = re.compile(r"/|\*\Z|https?://|[^/?#]+:[0-9]+\Z")
_SPACE = re.compile(r"[ \t]+")


def request(node: syntax.HttpRequest, services: tuple[Service, ...], found: Findings) -> HttpExpectation | None:
    """What is sent; None if it cannot be. `services` are those of the expectation."""
    if not_tcp(services):
        found.add("request-service", "a request is sent over tcp only", node.span, help="name a tcp service: tcp/8080")
    method = http_words.method(node.method, found, of_entry=False)
    sendable = _target(node.target, found)
    host: syntax.HttpField | None = None
    headers: list[tuple[str, str]] = []
    for field in node.fields:
        if field.name is not None:
            if http_words.header_name(field.name, found) is not None:
                headers.append((field.name.text, field.value.text))
        elif host is None:
            host = field
        else:
            notes = (("first said here", host.span),)
            help = "one `Host` line is sent; a second is written as `header`"
            found.add("duplicate-condition", "this request says `host` twice", field.span, help=help, notes=notes)
    if method is None or not sendable:
        return None
    return HttpExpectation(method, node.target.text, host.value.text if host else None, tuple(headers))


def _target(word: syntax.Word, found: Findings) -> bool:
    """Whether the target can be sent; otherwise there is a finding."""
    space = _SPACE.search(word.text)
    if space:
        span = within(word, space.start(), space.end())
        help = "a target is written as it is sent: a space as %20"
        encoded = quoted(_SPACE.sub("%20", word.text))
        found.add("bad-target", "a target has no spaces", span, suggestion=encoded, help=help)
        return False
    if _TARGET.match(word.text):
        return True
    suggestion = quoted(f"/{word.text}") if re.match(r"[A-Za-z0-9_~-]", word.text) else None
    help = "a target begins with `/`, or is `*`, `http://…` or HOST:PORT"
    found.add("bad-target", "no client can send this target", word.span, suggestion=suggestion, help=help)
    return False
