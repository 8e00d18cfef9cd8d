"""What asks in the measurements: wrk, h2load and curl, and what they measured."""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import place
from benchmarks.loads import Wrong

WRK_THREADS, WRK_CONNECTIONS = 1, 32
LATENCY_CLIENTS = 16
# What a browser sends, about 800 bytes with the start line and Host.
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de-DE;q=0.8,de;q=0.7",
    "Cache-Control: max-age=0",
    'Sec-CH-UA: "Chromium";v="131", "Not_A Brand";v="24"',
    "Sec-CH-UA-Mobile: ?0",
    'Sec-CH-UA-Platform: "Linux"',
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-User: ?1",
    "Upgrade-Insecure-Requests: 1",
    "Cookie: session=3f2b8c1d9e7a4f60b5d2c8e1a7f39b04",
)
CLOSE = ("Connection: close",)


def requests(url: str, seconds: float, headers: Sequence[str] = ()) -> float:
    """Requests a second that wrk gets answered with 200, on connections that it keeps (unless a header says otherwise)."""
    options = [word for header in headers for word in ("-H", header)]
    given = f"{max(round(seconds), 1)}s"
    said = place.run("wrk", f"-t{WRK_THREADS}", f"-c{WRK_CONNECTIONS}", f"-d{given}", *options, url)
    if "Non-2xx" in said or re.search(r"Socket errors: (?!connect 0, read 0, write 0, timeout 0)", said):
        raise Wrong(f"{url}: {said.strip()[-300:]}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if found is None:
        raise Wrong(f"wrk: {said.strip()[-300:]}")
    return float(found[1])


@dataclass(frozen=True)
class Latency:
    """`p99` and `median` in µs; `rate`: requests a second that were answered."""

    p99: float
    median: float
    rate: float


def latency(url: str, rate: float, seconds: float) -> Latency:
    """h2load at a fixed rate, spread over some connections."""
    clients = LATENCY_CLIENTS
    with tempfile.TemporaryDirectory(prefix="policyc-bench-") as folder:
        log = Path(folder, "log")
        place.run(
            "h2load", "--h1", f"-c{clients}", f"-D{max(round(seconds), 1)}", f"--rps={rate / clients:.1f}", f"--log-file={log}", url
        )  # fmt: skip
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    taken = sorted(int(line[2]) for line in lines)
    if len(taken) < 100 or any(line[1] != "200" for line in lines):
        raise Wrong(
            f"h2load {url}: {len(taken)} requests, {sum(line[1] != '200' for line in lines)} not answered by 200"
        )
    return Latency(taken[len(taken) * 99 // 100], statistics.median(taken), len(taken) / max(round(seconds), 1))


def download(url: str) -> float:
    """Bytes a second."""
    return _curl(url, "speed_download")


def upload(url: str, file: Path, group: Path | None = None) -> float:
    """Bytes a second of a POST; from a cgroup if one is given."""
    return _curl(url, "speed_upload", "-H", "Expect:", "-X", "POST", "-T", str(file), group=group)


def _curl(url: str, what: str, *options: str, group: Path | None = None) -> float:
    command = ["curl", "-sf", "-o", "/dev/null", "-m", "60", "-w", f"%{{{what}}}", *options, url]
    if group is not None:
        command = ["sh", "-c", f'echo $$ >"{group}/cgroup.procs" && exec "$@"', "sh", *command]
    return float(place.run(*command))
