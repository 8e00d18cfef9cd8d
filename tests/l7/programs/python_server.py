"""http.server with threads and keep-alive, as its documentation shows it: `python_server.py HOST PORT LOG`. What the handler was given is a
JSON line a request. GET and HEAD do not look for a body, the other methods read what Content-Length says."""

from __future__ import annotations

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

LOG = open(sys.argv[3], "a", buffering=1)  # noqa: SIM115
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = b""
        if self.command not in ("GET", "HEAD"):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        entry = {
            "port": self.client_address[1],
            "method": self.command,
            "target": self.path,
            "path": unquote(self.path.partition("?")[0], "latin-1"),
            "host": self.headers.get("Host"),
            "length": len(body),
            "body": body[:256].decode("latin-1"),
        }
        with LOCK:
            LOG.write(json.dumps(entry) + "\n")
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"served\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_TRACE = do_CONNECT = _serve

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    request_queue_size = 512

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no news."""


server = Server((sys.argv[1], int(sys.argv[2])), Handler)
print("ready", flush=True)
server.serve_forever()
