"""A server for the examples, which answers any request with 200 and a line of text: nginx if it is there, else `http_server.py TEXT PORT…`."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
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


def command(folder: Path, text: str, ports: Sequence[int]) -> tuple[str, list[str]]:
    """What the server is, and how it is started: at `ports` of all addresses. `folder` is for files of its own."""
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if nginx is None:
        return "Python's http.server", [sys.executable, __file__, text, *map(str, ports)]
    config = folder / "nginx.conf"
    listen = " ".join(f"listen {port}; listen [::]:{port};" for port in ports)
    paths = " ".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; events {{}}\n"
        f"http {{ access_log off; {paths} server {{ {listen} return 200 '{text}\\n'; }} }}\n"
    )
    return "nginx", [nginx, "-c", str(config), "-e", str(folder / "error.log")]


def main() -> None:
    servers = [Server(("::", int(port)), Handler) for port in sys.argv[2:]]
    threads = [threading.Thread(target=s.serve_forever) for s in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
