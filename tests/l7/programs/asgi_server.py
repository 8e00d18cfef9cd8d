"""An ASGI application, as its specification shows one, that writes down what it was given: `LOG` names the file, a JSON line a request."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

LOG = os.open(os.environ["LOG"], os.O_WRONLY | os.O_APPEND)


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), None)
    entry = {
        "port": scope["client"][1],
        "method": scope["method"],
        "target": scope["raw_path"].decode("latin-1"),
        "path": scope["path"],
        "host": host,
        "length": len(body),
        "body": body[:256].decode("latin-1"),
    }
    os.write(LOG, json.dumps(entry).encode() + b"\n")
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain"), (b"content-length", b"7")],
        }
    )
    await send({"type": "http.response.body", "body": b"served\n"})
