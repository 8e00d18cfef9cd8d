"""Real HTTP servers, each with a log of what its handlers were given.

A server is started in a scene as `api`; `Server.requests()` sorts its log by the client's port, which tells connections apart. What a
log line holds is what an application learns: method, target as sent, path as the server decodes it, Host, and the body where it is read."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

from tests.l7.place import Scene

T = TypeVar("T")
PROGRAMS = Path(__file__).parent / "programs"
NAMES = ("nginx", "python", "node", "go")  # whose readings of the corpus are compared
OTHERS = ("gunicorn", "uvicorn")
# Whose threads are blocked in recv(): at a denial they get EAGAIN, take it for the end and close. Where that comes before the kernel has
# sent the 403, the 403 is lost (docs/l7.md).
BLOCKING = {"python"}
AGAIN = 3  # times that what may be lost so is played again
NGINX = """\
daemon off; master_process {master}; worker_processes {workers}; user root; pid {folder}/pid; worker_rlimit_nofile {files};
events {{ worker_connections 32768; {accept} }}
http {{
  log_format seen escape=json '{{"port":$remote_port,"method":"$request_method","target":"$request_uri","path":"$uri","host":"$http_host",'
    '"length":"$content_length","status":$status,"line":"$request"}}';
  access_log {log}; sendfile on; tcp_nodelay on; default_type text/plain; keepalive_requests 1000000; client_max_body_size 0;
  client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t; uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
  server {{
    {listen}
    root {folder}/root;
    location / {{ return 200 "served\\n"; }}
    location /files/ {{ dav_methods PUT; create_full_put_path on; }}
  }}
}}
"""


class Missing(Exception):
    """A server's program is not on this machine; the text says which."""


@dataclass(frozen=True)
class Seen:
    """A request as a server's handler had it. `status` is what it answered where the server says so."""

    method: str
    target: str
    path: str | None
    host: str | None
    length: int
    body: str
    status: int | None = None


class Server:
    """One that runs; `log` grows by a line a request."""

    def __init__(self, name: str, port: int, log: Path, process: subprocess.Popen[Any]) -> None:
        self.name, self.port, self.log, self.process = name, port, log, process

    def requests(self) -> dict[int, list[Seen]]:
        """What it saw since it was started, by the client's port."""
        found: dict[int, list[Seen]] = defaultdict(list)
        coding = "latin-1" if self.name == "nginx" else "utf-8"  # nginx writes bytes as they came
        for line in self.log.read_text(encoding=coding).split("\n")[:-1]:
            entry = json.loads(line)
            said = str(entry.get("length") or 0)
            length = int(said) if said.isascii() and said.isdigit() else 0  # nginx tells what it refused, too
            seen = Seen(entry["method"], entry["target"], entry.get("path"), entry.get("host"), length, entry.get("body", ""), entry.get("status"))  # fmt: skip
            found[entry["port"]].append(seen)
        return found

    def settled(self, seconds: float = 0.2) -> dict[int, list[Seen]]:
        """The same once the log has not grown for that long."""
        size = -1
        while (now := self.log.stat().st_size) != size:
            size = now
            time.sleep(seconds)
        return self.requests()


def answered(play: Callable[[], T], lost: Callable[[T], bool], blocking: bool) -> T:
    """What `play` comes to, which asks anew each time. Where the server is blocking what was lost is played again; anything else stands."""
    said = play()
    for _ in range(AGAIN if blocking else 0):
        if not lost(said):
            break
        said = play()
    return said


def start(name: str, scene: Scene, port: int, host: str = "::", group: str | None = None, **more: Any) -> Server:
    """Starts a server of that name (`NAMES`) and waits until it listens; `group` as `Scene.start` takes it. Raises `Missing`."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scene.folder))
    folder.chmod(0o755)
    log = folder / "seen.log"
    log.touch()
    command = STARTERS[name](host, port, log, folder, **more)
    with (folder / "errors").open("wb") as errors:
        process = scene.start("api", *command, group=group, stdout=subprocess.DEVNULL, stderr=errors)
    scene.namespace("api").wait_for_listeners([port])
    return Server(name, port, log, process)


def _nginx(
    host: str, port: int, log: Path, folder: Path, workers: int = 0, reuseport: bool = False, logs: bool = True
) -> list[str]:
    """Without `workers` it is one process; with them each has a listening socket of its own if `reuseport`."""
    program = installed("nginx")
    (folder / "root" / "files").mkdir(parents=True)
    where = _in_url(host)
    options = " reuseport" * reuseport + " ipv6only=off" * (":" in host)
    config = folder / "nginx.conf"
    config.write_text(
        NGINX.format(
            master="on" if workers else "off",
            workers=workers or 1,
            files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            folder=folder,
            log=f"{log} seen" if logs else "off",
            listen=f"listen {where}:{port}{options} backlog=4096;",
            accept="" if workers else "accept_mutex off;",
        )
    )
    return [program, "-c", str(config), "-e", str(folder / "errors.log"), "-p", str(folder)]


def _python(host: str, port: int, log: Path, folder: Path) -> list[str]:
    return [sys.executable, str(PROGRAMS / "python_server.py"), host, str(port), str(log)]


def _node(host: str, port: int, log: Path, folder: Path) -> list[str]:
    return [installed("node"), str(PROGRAMS / "node_server.js"), host, str(port), str(log)]


def _go(host: str, port: int, log: Path, folder: Path, mptcp: bool = False, proxy: str = "") -> list[str]:
    where = f"{_in_url(host)}:{port}"
    return [str(built_go_server()), f"-mptcp={'true' if mptcp else 'false'}", f"-proxy={proxy}", where, str(log)]


def _gunicorn(host: str, port: int, log: Path, folder: Path) -> list[str]:
    """With threads, which keep connections; the workers of its other kind do not."""
    where = ("--bind", f"{_in_url(host)}:{port}", "--worker-tmp-dir", str(folder), "--workers", "2", "--threads", "4")
    return _application(log, "gunicorn", *where, "--chdir", str(PROGRAMS), "wsgi_server:application")


def _uvicorn(host: str, port: int, log: Path, folder: Path) -> list[str]:
    # asyncio would listen for IPv6 alone.
    where = (
        "--host",
        "0.0.0.0" if host == "::" else host,
        "--port",
        str(port),
        "--log-level",
        "warning",
        "--app-dir",
        str(PROGRAMS),
    )
    return _application(log, "uvicorn", *where, "asgi_server:application")


def _application(log: Path, module: str, *arguments: str) -> list[str]:
    return ["env", f"LOG={log}", sys.executable, "-m", module, *arguments]


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


STARTERS: dict[str, Callable[..., list[str]]] = {
    "nginx": _nginx,
    "python": _python,
    "node": _node,
    "go": _go,
    "gunicorn": _gunicorn,
    "uvicorn": _uvicorn,
}


@cache
def built_go_server() -> Path:
    """The program of `programs/goserver`, built from the standard library alone. Raises `Missing`."""
    folder = Path(tempfile.mkdtemp(prefix="policyc-goserver-"))
    environment = {**os.environ, "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    command = [installed("go"), "build", "-o", str(folder / "goserver"), "."]
    done = subprocess.run(
        command, cwd=PROGRAMS / "goserver", env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Missing(f"go build: {done.stderr.strip()[:300]}")
    return folder / "goserver"


def installed(name: str) -> str:
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/go/bin")
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def version(name: str) -> str:
    """Of a server's program, as far as it may matter: `nginx 1.22`, `python 3.11`, `node 20`, `go 1.26`. Raises `Missing`."""
    if name == "python":
        return f"python {sys.version_info.major}.{sys.version_info.minor}"
    arguments = {"nginx": ["-v"], "node": ["--version"], "go": ["version"]}[name]
    done = subprocess.run([installed(name), *arguments], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+)\.(\d+)", done.stdout + done.stderr)
    assert found is not None
    return f"node {found[1]}" if name == "node" else f"{name} {found[1]}.{found[2]}"


def errors(server: Server) -> str:
    """What its program complained of."""
    stream: IO[str]
    with (server.log.parent / "errors").open() as stream:
        return stream.read()
