"""What the tests do: sites, clients, and commands as an operator types them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from private_network import Namespace, Network, end_process

ROOT = Path(__file__).parents[2]
HOMES = {
    "web": ("10.9.1.2/24", "fd09:1::2/64"),
    "api": ("10.9.2.2/24", "fd09:2::2/64"),
    "world": ("203.0.113.2/24", "2001:db8:bad::2/64"),
}
TCP_PORTS, UDP_PORTS = (80, 8080), (5353, 5454)
BIG = 64 << 20  # bytes of the file `big`
PATIENCE = "0.7"  # seconds: before a denied client tries again (TCP sends its second SYN after one)
UDP_ECHO = """
import selectors, socket, sys
polled = selectors.DefaultSelector()
for port in sys.argv[1:]:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(("::", int(port)))
    polled.register(s, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in polled.select():
        data, peer = key.fileobj.recvfrom(65536)
        key.fileobj.sendto(data, peer)
"""


def address(name: str, version: int) -> str:
    """Of a guest, without prefix length."""
    return HOMES[name][version == 6].partition("/")[0]


class Site:
    """The namespaces with the servers of `api`: nginx on `TCP_PORTS`, a UDP echo on `UDP_PORTS`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = Network()
        try:
            for name, addresses in HOMES.items():
                self.network.guest(name, addresses)
            self.network.settle()
            self.big = folder / "big"
            self.big.write_bytes(os.urandom(1 << 20) * (BIG >> 20))
            self._serve()
        except BaseException:
            self.close()
            raise

    def guest(self, name: str) -> Namespace:
        return self.network.guests[name]

    def _serve(self) -> None:
        api, config = self.guest("api"), self.folder / "nginx.conf"
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        assert nginx is not None, "nginx is not installed"
        listen = " ".join(f"listen {port}; listen [::]:{port};" for port in TCP_PORTS)
        temporary = " ".join(
            f"{kind}_temp_path {self.folder}/t;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"daemon off; master_process off; user root; pid {self.folder}/pid; events {{}}\n"
            f"http {{ access_log off; sendfile on; {temporary}\n"
            f"server {{ {listen} root {self.folder}; location = / {{ return 200 'hello'; }} }} }}\n"
        )
        api.start(nginx, "-c", str(config), "-e", str(self.folder / "log"), stderr=subprocess.DEVNULL)
        api.wait_for_listeners(TCP_PORTS)
        echo = api.start(sys.executable, "-c", UDP_ECHO, *map(str, UDP_PORTS), stdout=subprocess.PIPE)
        assert echo.stdout is not None
        assert echo.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self.network.close()


# --- clients ------------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """A command in a guest that succeeds if an answer comes; `given` is its input."""

    guest: Namespace
    command: Sequence[str]
    given: bytes = b""
    needs_output: bool = False


def curl(guest: Namespace, host: str, port: int, *options: str) -> Client:
    where = f"[{host}]" if ":" in host else host
    return Client(guest, ["curl", "-s", "-f", "-o", "/dev/null", "-m", PATIENCE, *options, f"http://{where}:{port}/"])


def ping(guest: Namespace, host: str) -> Client:
    return Client(guest, ["ping", "-n", "-c", "1", "-W", PATIENCE, host])


def udp(guest: Namespace, host: str, port: int) -> Client:
    """nc ends with the first datagram, or after a second."""
    return Client(guest, ["nc", "-u", "-w", "1", "-W", "1", host, str(port)], b"hello\n", needs_output=True)


def answered(*clients: Client) -> list[bool]:
    """Runs all at once; whether each got its answer."""
    running = []
    for client in clients:
        process = subprocess.Popen(
            client.guest.command(*client.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        process.stdin.write(client.given)
        process.stdin.flush()
        running.append(process)
    results = []
    for client, process in zip(clients, running, strict=True):
        try:
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
        results.append(process.returncode == 0 and (bool(output) or not client.needs_output))
    return results


class Transfer:
    """A download of the file `big` from `api` by `web` into `path`, at so many MiB a second."""

    def __init__(self, site: Site, path: Path, port: int, rate: int, version: int = 4) -> None:
        self._expected, self._path = site.big, path
        path.touch()
        host = address("api", version)
        url = f"http://{f'[{host}]' if version == 6 else host}:{port}/big"
        command = ["curl", "-s", "-f", "-m", "30", "--limit-rate", f"{rate}M", "-o", str(path), url]
        self._process = site.guest("web").start(*command)

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        end_process(self._process)

    @property
    def size(self) -> int:
        return self._path.stat().st_size

    def moves(self) -> bool:
        """Whether bytes come within a few seconds."""
        size = self.size
        return soon(lambda: self.size > size)

    def stands_still(self) -> bool:
        """Whether nothing comes for half a second, after what the kernel had received is read; which is a part."""
        for _ in range(8):
            size = self.size
            if not soon(lambda seen=size: self.size > seen, 0.5):  # type: ignore[misc]
                return self._process.poll() is None and size < BIG
        return False

    def exact(self) -> bool:
        """Waits for the end; whether every byte came."""
        return self._process.wait(30) == 0 and self._path.read_bytes() == self._expected.read_bytes()


class Prober:
    """`prober.py` in `web`, which tries connections to `api` on both families, in a cgroup if that is given."""

    def __init__(self, site: Site, cgroup: Path | None = None) -> None:
        script = Path(__file__).with_name("prober.py")
        peers = f"{address('api', 4)},{address('api', 6)}"
        join = f"echo $$ >{cgroup}/cgroup.procs && " if cgroup is not None else ""
        command = ["sh", "-c", f'{join}exec "$@"', "sh", sys.executable, str(script), peers]
        self._process = site.guest("web").start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._before = 0

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        end_process(self._process)

    def ask(self, tcp: Sequence[int] = (), udp: Sequence[int] = (), wait: float = 0.0, **more: Any) -> dict[str, Any]:
        """Which ports answer in that time: the answers on IPv4, then those on IPv6."""
        wanted = {"tcp": list(tcp), "udp": list(udp), "wait": wait, **more}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def forbid(self, ports: Sequence[int]) -> None:
        """Datagrams go there from now on, and what is answered is a wrong."""
        self._before = self.ask(forbidden=list(ports))["forbidden"]

    def wrongs(self) -> int:
        return int(self.ask()["forbidden"]) - self._before


def soon(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it holds within that time; asked every 20 ms."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# --- the operator ---------------------------------------------------------------------------------------------------------


def object_in(folder: Path, text: str) -> Path:
    """Where the object of a policy is in a folder of objects that were compiled before (tests/kernels/evasions.py)."""
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.o"


def compile_policy(text: str, folder: Path) -> Path:
    """The object, made in `folder` or taken from the folder that `POLICYC_TEST_OBJECTS` names."""
    before = os.environ.get("POLICYC_TEST_OBJECTS")
    if before and object_in(Path(before), text).exists():
        return object_in(Path(before), text)
    folder.mkdir(exist_ok=True)
    source, built = folder / "e2e.pol", folder / "e2e.o"
    source.write_text(text)
    command = [sys.executable, "-m", "policyc", "compile", str(source), "-o", str(built)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built


@dataclass
class Counted:
    """Rules by reference; packets by direction, verdict and reason."""

    rules: dict[str, dict[str, Any]]
    reasons: dict[tuple[str, str, str], int]


@dataclass
class Operator:
    """Runs `policyc` in a network namespace, with pins and state in `folder`."""

    namespace: Namespace
    folder: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "bpf").mkdir(exist_ok=True)
        places = {"POLICYC_BPFFS": str(self.folder / "bpf"), "POLICYC_STATE": str(self.folder / "state")}
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {**os.environ, **places, "PYTHONPATH": ":".join(paths), "NO_COLOR": "1"}

    def at(self, namespace: Namespace) -> Operator:
        """The same pins and state, in another network namespace."""
        return Operator(namespace, self.folder)

    def command(self, *arguments: str) -> list[str]:
        return self.namespace.command(sys.executable, "-m", "policyc", *arguments)

    def run(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """`code` None: any but that of a bug."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=180
        )
        fits = done.returncode == code if code is not None else done.returncode in (0, 1, 2, 3)
        assert fits, f"policyc {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--format", "json").stdout)

    def load(self, built: Path, *arguments: str, name: str = "shop", code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("load", str(built), "--name", name, *arguments, code=code)

    def endpoints(self, *entries: dict[str, Any], host: Sequence[str] = ()) -> Path:
        """An endpoints file."""
        path = self.folder / f"endpoints-{len(list(self.folder.glob('endpoints-*')))}.yaml"
        path.write_text(json.dumps({"version": 1, "host": list(host), "endpoints": list(entries)}))
        return path

    def counted(self, name: str = "shop") -> Counted:
        found = self.json("counters", name)
        return Counted(
            {rule["ref"]: rule for rule in found["rules"]},
            {(r["direction"], r["verdict"], r["reason"]): r["packets"] for r in found["reasons"]},
        )

    def counters(self, name: str = "shop") -> dict[str, dict[str, Any]]:
        """By reference."""
        return self.counted(name).rules

    def reasons(self, name: str = "shop") -> dict[tuple[str, str, str], int]:
        """Packets by direction, verdict and reason."""
        return self.counted(name).reasons

    def events(self, name: str = "shop") -> list[dict[str, Any]]:
        """Those since this was asked last."""
        lines = self.run("monitor", name, "--format", "json", "--timeout", "0.3").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def unload_all(self) -> None:
        state = self.folder / "state"
        for load in sorted(state.iterdir()) if state.exists() else []:
            self.run("unload", load.name)


def endpoint(name: str, *labels: str, **more: Any) -> dict[str, Any]:
    """An entry of an endpoints file, with both addresses of the guest of that name and the label `app` as its name."""
    given = dict(label.split("=") for label in labels) or {"app": name}
    addresses = [address(name, 4), address(name, 6)] if name in HOMES else []
    entry = {"name": name, "addresses": addresses, "labels": given, **more}
    return {key: value for key, value in entry.items() if value not in (None, [])}


def brief(event: dict[str, Any]) -> tuple[str, str, str | None, str]:
    """Direction, verdict, reference and reason of an event."""
    return event["direction"], event["verdict"], event["ref"], event["reason"]
