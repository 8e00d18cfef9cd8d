"""A server for the examples: answers any request with 200 and a line of text. `http_server.py TEXT PORT…`"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6

TEXT = f"{sys.argv[1]}\n".encode() if len(sys.argv) > 1 else b""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(TEXT)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(TEXT)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """At all addresses of both families."""

    address_family = AF_INET6


def main() -> None:
    servers = [Server(("::", int(port)), Handler) for port in sys.argv[2:]]
    threads = [threading.Thread(target=s.serve_forever) for s in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
