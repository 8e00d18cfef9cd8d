"""Requests as a client sends them: the `http` of a flow line, and the request of an expectation, to segments of bytes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from policyc.quoting import quoted

REQUEST_FIELDS = ("method", "path", "version", "host", "query", "headers")
FIELDS = (*REQUEST_FIELDS, "stream", "segments")
VERSIONS = ("1.0", "1.1")

Segments = tuple[bytes, ...]  # the single writes of a client


class BadRequest(Exception):
    """An `http` field that is none; the message goes into the error object."""


def compose(method: str, target: str, version: str, host: str | None, headers: Iterable[tuple[str, str]]) -> bytes:
    """A request without a body: its start line, `Host` if there is one, then the headers in their order."""
    lines = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def parse_http(value: object, default_host: str) -> Segments:
    """The `http` field: `stream`, `segments`, or the fields of one request. `default_host` is said in HTTP/1.1. Raises BadRequest."""
    if not isinstance(value, dict):
        raise BadRequest("http must be an object")
    for key in value:
        if key not in FIELDS:
            raise BadRequest(f"http has no {quoted(key)}; it has {', '.join(FIELDS)}")
    for key in ("stream", "segments"):
        if key in value and len(value) > 1:
            raise BadRequest(f"{key} of http stands alone")
    if "stream" in value:
        return (_bytes("stream", value["stream"]),)
    if "segments" in value:
        if not isinstance(value["segments"], list):
            raise BadRequest(f"segments of http must be a list, not {quoted(value['segments'])}")
        return tuple(_bytes("segments", segment) for segment in value["segments"])
    return (_request(value, default_host),)


def _request(fields: Mapping[str, Any], default_host: str) -> bytes:
    for key in ("method", "path"):
        if key not in fields:
            raise BadRequest(f"{quoted(key)} of http is missing")
    version = fields.get("version", "1.1")
    if version not in VERSIONS:
        raise BadRequest(f"version of http must be {' or '.join(map(quoted, VERSIONS))}, not {quoted(version)}")
    target = _text(fields, "path")
    if "query" in fields:
        target += f"?{_text(fields, 'query')}"
    host = _text(fields, "host") if "host" in fields else None
    if host is None and version == "1.1":
        host = default_host
    return compose(_text(fields, "method"), target, version, host, _headers(fields.get("headers", [])))


def _headers(value: object) -> Sequence[tuple[str, str]]:
    if not isinstance(value, list):
        raise BadRequest(f"headers of http must be a list, not {quoted(value)}")
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRequest(f"a header of http is a pair [name, value], not {quoted(pair)}")
    return [(_checked("headers", name), _checked("headers", text)) for name, text in value]


def _text(fields: Mapping[str, Any], key: str) -> str:
    return _checked(key, fields[key])


def _checked(key: str, value: object) -> str:
    """Text that stays in its line."""
    if not isinstance(value, str):
        raise BadRequest(f"{key} of http must be text, not {quoted(value)}")
    if "\r" in value or "\n" in value:
        raise BadRequest(f"{key} of http has a line break: such bytes are given as stream or segments")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRequest(f"{key} of http has half a character: {quoted(value)}")
    return value


def _bytes(key: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise BadRequest(f"{key} of http must be in base64, not {quoted(value)}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{key} of http is not in base64: {quoted(value)}") from None
