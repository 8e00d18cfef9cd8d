"""HTTP judged in the kernel, beside the same server with no policy and behind Envoy with the same rules.

`python -m benchmarks.bench_http [--quick] [--out FILE]`, as root. nginx answers, on loopback in a network namespace of this process; wrk,
h2load and curl ask. What is compared takes turns in every round; medians count, and ratios are of medians. `bare sockmap` (bare_sockmap.py) is the floor: what it costs
that a program is asked at all."""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks import bare_sockmap, figures, http_clients, http_servers, place
from benchmarks.figures import Figure
from benchmarks.routes import asked, block, routes
from policyc.artifact.reader import Artifact, read
from policyc.artifact.stream_layout import stream_map_specs
from policyc.driver import compile_files
from policyc.model import Endpoint
from policyc.runtime.cgroups import mount_point
from policyc.runtime.load import Options, load
from policyc.runtime.pins import Pins
from policyc.runtime.unload import unload

ROUTES, MANY = 100, 1000
# Where nginx listens: with no policy, behind 100 routes, behind one, behind 1,000, with sockets in a sockmap; and Envoy before the first.
FREE, JUDGED, ONE, THOUSAND, BARE, PROXY = 8081, 8080, 8082, 8083, 8084, 8090
PAGES = {JUDGED: ROUTES, ONE: 1, THOUSAND: MANY}
FLOOR = "bare sockmap"
ROUNDS, QUICK_ROUNDS = 7, 3
SECONDS = 1.0  # of one measurement
BIG, QUICK_BIG = 1 << 30, 256 << 20  # bytes of a transfer
UPLOAD = "/files/up"
INGRESS = """\
policy server{port} for {{ app == server{port} }} {{
  ingress {{
    allow from any on tcp/{port} {block}
    allow from any on tcp/{port} http {{ GET, POST "/files/**" }}
  }}
}}
"""
EGRESS = 'policy client for { app == client } { egress { allow to any on tcp/8081 http { POST "/files/**" } } }\n'


class Groups:
    """Cgroups of one's own: one for each judged server, `client`, and `free` for what nobody judges."""

    def __init__(self) -> None:
        self.top = mount_point() / f"policyc-bench-{os.getpid()}"

    def __getitem__(self, name: object) -> Path:
        folder = self.top / str(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self) -> None:
        for folder in [*(f for f in self.top.glob("*") if f.is_dir()), self.top]:
            for _ in range(100):  # what ran in it has only just ended
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.02)


class Bench:
    """The servers, and the load that judges those that are to be judged."""

    def __init__(self, resources: ExitStack, quick: bool) -> None:
        self.folder = Path(
            resources.enter_context(tempfile.TemporaryDirectory(prefix="policyc-bench-", dir="/dev/shm"))
        )
        self.quick, self.rounds = quick, QUICK_ROUNDS if quick else ROUNDS
        self.groups = Groups()
        resources.callback(self.groups.close)
        self.big = self.folder / "files" / "big"
        self.big.parent.mkdir()
        _fill(self.big, QUICK_BIG if quick else BIG)
        self._load(resources)
        http_servers.nginx(resources, self.folder, FREE, self.folder, self.groups["free"])
        bare_sockmap.enter(resources, self.groups[BARE])
        for port in (*PAGES, BARE):
            http_servers.nginx(resources, self.folder, port, self.folder, self.groups[port])
        http_servers.envoy(resources, self.folder, PROXY, FREE, routes(ROUTES))

    def _load(self, resources: ExitStack) -> None:
        text = EGRESS + "".join(INGRESS.format(port=port, block=block(routes(count))) for port, count in PAGES.items())
        endpoints = [
            Endpoint(f"server{port}", labels={"app": f"server{port}"}, cgroup=str(self.groups[port])) for port in PAGES
        ]
        endpoints.append(Endpoint("client", labels={"app": "client"}, cgroup=str(self.groups["client"])))
        load(compiled(text, self.folder), "bench", Options(endpoints, (), [], events="none"))
        resources.callback(unload, "bench")

    def url(self, port: int, path: str | None = None) -> str:
        """What is allowed at each server: a path of a route in the middle."""
        return f"http://127.0.0.1:{port}{asked(PAGES.get(port, ROUTES)) if path is None else path}"

    def by_turns(self, measured: Mapping[str, Callable[[], float]]) -> dict[str, float]:
        """The median of each over all rounds, after one that does not count."""
        kept: dict[str, list[float]] = {name: [] for name in measured}
        for number in range(self.rounds + 1):
            for name, measure in measured.items():
                value = measure()
                if number:
                    kept[name].append(value)
        return {name: statistics.median(values) for name, values in kept.items()}


def compiled(text: str, folder: Path) -> Artifact:
    source = folder / "bench.pol"
    source.write_text(text)
    return read(compile_files([str(source)]))


def _fill(path: Path, size: int) -> None:
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(piece)


# --- figures ----------------------------------------------------------------------------------------------------------


def throughput(bench: Bench) -> Iterator[Figure]:
    """Requests a second on connections that are kept."""
    for head, headers, least in (("wrk's head", (), ">= 0.95"), ("an 800-byte head", http_clients.BROWSER, ">= 0.90")):
        ports = {"no policy": FREE, FLOOR: BARE, "Envoy": PROXY, "policyc": JUDGED}
        # A default argument each: the loop goes on.
        found = bench.by_turns(
            {
                name: lambda port=port, headers=headers: http_clients.requests(bench.url(port), SECONDS, headers)  # type: ignore[misc]
                for name, port in ports.items()
            }
        )
        for name, value in found.items():
            yield Figure("http", f"requests/s, {head}, {name}", round(value), "/s")
        yield from ratio("requests/s", head, found, "no policy", least)
        yield from ratio("requests/s", head, found, "Envoy", ">= 3.5")
        for other in (FLOOR, "Envoy"):
            yield ratio_of("requests/s", head, other, "no policy", found)


def rates(bench: Bench) -> Iterator[Figure]:
    """p99 at half of what saturates: each pair at half of what the slower of it, which nobody judges or Envoy does, can."""
    for slower, port, limit in (("no policy", FREE, "<= 1.15"), ("Envoy", PROXY, "<= 0.35")):
        most = statistics.median(http_clients.requests(bench.url(port), SECONDS) for _ in range(3))
        ports = {slower: port, "policyc": JUDGED}
        found = bench.by_turns(
            {
                name: lambda port=port, most=most: http_clients.latency(bench.url(port), most / 2, SECONDS).p99  # type: ignore[misc]
                for name, port in ports.items()
            }
        )
        what = f"{most / 2:,.0f} requests/s"
        for name, value in found.items():
            yield Figure("http", f"p99 at half of {slower}'s saturation, {name}", round(value), "µs", note=what)
        yield from ratio("p99", f"half of {slower}'s saturation", found, slower, limit)


def connections(bench: Bench) -> Iterator[Figure]:
    """One request each."""
    ports = {"no policy": FREE, FLOOR: BARE, "Envoy": PROXY, "policyc": JUDGED}
    found = bench.by_turns(
        {
            name: lambda port=port: http_clients.requests(bench.url(port), SECONDS, http_clients.CLOSE)  # type: ignore[misc]
            for name, port in ports.items()
        }
    )
    for name, value in found.items():
        yield Figure("http", f"connections/s, {name}", round(value), "/s")
    yield from ratio("connections/s", "no keep-alive", found, "no policy", ">= 0.85")
    yield ratio_of("connections/s", "no keep-alive", FLOOR, "no policy", found)


def growth(bench: Bench) -> Iterator[Figure]:
    found = bench.by_turns(
        {
            name: lambda port=port: http_clients.requests(bench.url(port), SECONDS)  # type: ignore[misc]
            for name, port in (("1 route", ONE), ("1,000 routes", THOUSAND))
        }
    )
    value = found["1 route"] / found["1,000 routes"]
    note = ", ".join(f"{name}: {rate:,.0f} requests/s" for name, rate in found.items())
    yield Figure("http", "cost of a request, 1 → 1,000 routes", round(value, 3), "×", "<= 1.10", note)


def transfers(bench: Bench) -> Iterator[Figure]:
    """Bytes a second of one large body."""
    size = f"{bench.big.stat().st_size >> 20:,} MiB"
    free, files = bench.url(FREE, "/files/"), "/files/"
    cases: dict[str, tuple[str, dict[str, Callable[[], float]]]] = {
        "download by sendfile": (
            ">= 0.95",
            {
                "no policy": lambda: http_clients.download(f"{free}big"),
                FLOOR: lambda: http_clients.download(f"{bench.url(BARE, files)}big"),
                "policyc": lambda: http_clients.download(f"{bench.url(JUDGED, files)}big"),
            },
        ),
        "upload": (
            ">= 0.95",
            {
                "no policy": lambda: http_clients.upload(bench.url(FREE, UPLOAD), bench.big),
                FLOOR: lambda: http_clients.upload(bench.url(BARE, UPLOAD), bench.big),
                "policyc": lambda: http_clients.upload(bench.url(JUDGED, UPLOAD), bench.big),
            },
        ),
        "egress upload": (
            ">= 0.85",
            {
                "no policy": lambda: http_clients.upload(bench.url(FREE, UPLOAD), bench.big, bench.groups["free"]),
                "policyc": lambda: http_clients.upload(bench.url(FREE, UPLOAD), bench.big, bench.groups["client"]),
            },
        ),
    }
    for name, (least, measured) in cases.items():
        found = bench.by_turns(measured)
        for who, value in found.items():
            yield Figure("http", f"{name}, {size}, {who}", round(value / 1e6), "MB/s")
        yield from ratio(name, size, found, "no policy", least)
        if FLOOR in found:
            yield ratio_of(name, size, FLOOR, "no policy", found)


def memory(bench: Bench) -> Iterator[Figure]:
    """Bytes of the maps' memory for each connection that they have room for, where most is kept: at a server or at a client."""
    each: dict[str, float] = {}
    for spec in stream_map_specs():
        if not spec.max_entries:
            continue
        with closing(Pins("bench").map(spec.name)) as found:
            each[spec.name] = _memlock(found.fd) / spec.max_entries
    marks = max(each["marks4"], each["marks6"])
    total = each["streams"] + marks + max(each["streams_in"], each["streams_out"])
    note = ", ".join(f"{name} {size:.0f}" for name, size in each.items())
    yield Figure("http", "map memory of a connection", round(total), "bytes", "<= 1024", note)


def compiling(bench: Bench) -> Iterator[Figure]:
    """The whole command."""
    source = bench.folder / "thousand.pol"
    source.write_text(INGRESS.format(port=THOUSAND, block=block(routes(MANY))))
    command = (sys.executable, "-m", "policyc", "compile", str(source), "-o", str(source.with_suffix(".o")))
    taken = []
    for _ in range(bench.rounds):
        begun = time.perf_counter()
        place.run(*command)
        taken.append(time.perf_counter() - begun)
    yield Figure("http", "compile 1,000 routes with globs", round(statistics.median(taken), 2), "s", "<= 3")


def ratio(what: str, case: str, found: Mapping[str, float], other: str, target: str) -> Iterator[Figure]:
    """policyc against another, where both were measured."""
    if "policyc" in found and other in found:
        value = found["policyc"] / found[other]
        yield Figure("http", f"{what}, {case}, policyc / {other}", round(value, 3), "×", target)


def ratio_of(what: str, case: str, one: str, other: str, found: Mapping[str, float]) -> Figure:
    return Figure("http", f"{what}, {case}, {one} / {other}", round(found[one] / found[other], 3), "×")


def _memlock(descriptor: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))


def prepare() -> None:
    """This process's namespace, with room for many short connections."""
    place.enter()
    for name, value in (("ip_local_port_range", "1100 65000"), ("tcp_tw_reuse", "1"), ("tcp_max_syn_backlog", "8192")):
        Path(f"/proc/sys/net/ipv4/{name}").write_text(value)
    Path("/proc/sys/net/core/somaxconn").write_text("8192")


def measured(bench: Bench) -> Iterator[Figure]:
    parts = (compiling, throughput, rates, connections, growth, transfers, memory)
    return itertools.chain.from_iterable(part(bench) for part in parts)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="three rounds, smaller transfers")
    options.add_argument("--out", type=Path, help="where the figures go")
    chosen = options.parse_args()
    prepare()
    with ExitStack() as resources:
        figures.report(measured(Bench(resources, chosen.quick)), chosen.out)


if __name__ == "__main__":
    main()
