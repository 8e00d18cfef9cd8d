"""A WSGI application, as its specification (PEP 3333) shows one, that writes down what it was given: `LOG` names the file, a JSON line a request."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

LOG = os.open(os.environ["LOG"], os.O_WRONLY | os.O_APPEND)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    path = environ["PATH_INFO"]
    entry = {
        "port": int(environ["REMOTE_PORT"]),
        "method": environ["REQUEST_METHOD"],
        "target": environ.get("RAW_URI", path),
        "path": path,
        "host": environ.get("HTTP_HOST"),
        "length": len(body),
        "body": body[:256].decode("latin-1"),
    }
    os.write(LOG, json.dumps(entry).encode() + b"\n")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "7")])
    return [b"served\n"]
