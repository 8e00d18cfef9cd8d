"""Many requests through a judged server, with what may leak or be lost on the way.

`python -m tests.l7.soak [--requests N] [--seed N]`, as root. nginx serves on loopback in a cgroup; wrk asks on connections that are kept and on
connections of one request each, other clients are denied, and all the while loads are replaced, some of their commands killed. After
each round and at the end: no request was lost, nothing forbidden was served, the stream tables are empty, and memory has not grown."""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from policyc.artifact.stream_layout import STREAM_ENTRIES
from tests.l7 import servers
from tests.l7.agent import Agent
from tests.l7.crowds import crowd, deny, sizes
from tests.l7.evasion import ALLOWED, FORBIDDEN
from tests.l7.place import LOAD, PORT, Scene

SETTLES = 20.0  # seconds in which the tables are empty after the last connection
GROWTH = 64 << 20  # bytes of unreclaimable kernel memory that a run may add after its first round
KEPT, CHURNED = 4, 2  # seconds of wrk in a round: connections that are kept, connections of one request
MORE = 500  # connections beyond what the tables have room for
POLICY = """\
policy api for {{ app == api }} {{
  ingress {{ allow from any on tcp/8080-8099 http {{ GET "/public/**"  POST "/public/{number}" }} as pages }}
}}
"""


class Failed(SystemExit):
    """What the run was to show does not hold."""


# --- the run ----------------------------------------------------------------------------------------------------------


class Soak:
    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene, self.random = scene, random.Random(seed)
        self.address = scene.address("api")
        self.server = servers.start("nginx", scene, PORT, workers=2, reuseport=True, logs=False)
        self.inside = Agent(scene.network.machine)
        scene.agents.append(self.inside)
        self.client = scene.agent("world", group="outside")
        self.policies = [scene.compile(POLICY.format(number=n)) for n in range(2)]
        self.endpoints = scene.endpoints({"api": "cgroup"})
        self.loads = self.killed = 0
        self.load()

    def command(self) -> list[str]:
        built = self.policies[self.loads % 2]
        return ["load", str(built), "--name", LOAD, "--endpoints", str(self.endpoints), "--events", "none"]

    def load(self) -> None:
        self.scene.operator.run(*self.command())
        self.loads += 1

    def kill_a_load(self) -> None:
        """A replacement that is killed somewhere on its way."""
        operator = self.scene.operator
        process = subprocess.Popen(operator.command(*self.command()), env=operator.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        time.sleep(self.random.uniform(0.1, 1.5))
        process.kill()
        process.wait()
        self.killed += 1
        self.loads += 1

    def wrk(self, seconds: int, *headers: str) -> int:
        """Requests answered. Raises `Failed` where one was not."""
        options = [word for header in headers for word in ("-H", header)]
        url = f"http://{self.address}:{PORT}/public/a"
        said = self.scene.run("world", "wrk", "-t1", "-c64", f"-d{seconds}s", *options, url).stdout
        found = re.search(r"(\d+) requests in", said)
        if found is None or "Socket errors" in said or "Non-2xx" in said:
            raise Failed(f"requests that are allowed were lost:\n{said}")
        return int(found[1])

    def round(self) -> int:
        """Kept connections, churn and denials, while loads come and go; the requests that were answered."""
        stop = threading.Event()
        operator = threading.Thread(target=self._operate, args=(stop,))
        operator.start()
        try:
            answered = self.wrk(KEPT)
            self.client.begin(deny, self.address, PORT, 40)
            answered += self.wrk(CHURNED, "Connection: close")
            served = self.client.result(60)
        finally:
            stop.set()
            operator.join()
        if served:
            raise Failed(f"{served} forbidden requests were served")
        return answered

    def _operate(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.load()
            self.kill_a_load()
            stop.wait(0.5)

    def overfull(self) -> dict[str, int]:
        """More connections than the tables have room for: what is judged is served, the others are not served."""
        said = self.client.call(crowd, self.address, PORT, STREAM_ENTRIES + MORE, ALLOWED, patience=300)
        forbidden = self.client.call(crowd, self.address, PORT, STREAM_ENTRIES + MORE, FORBIDDEN, patience=300)
        if forbidden.get("200", 0):
            raise Failed(f"{forbidden['200']} forbidden requests were served where the tables are full")
        if said.get("200", 0) > STREAM_ENTRIES:
            raise Failed(f"{said['200']} connections were served, {STREAM_ENTRIES} can be judged")
        return said

    def empty(self) -> None:
        """Waits until nothing is known of connections that are gone. Raises `Failed`."""
        end = time.monotonic() + SETTLES
        while True:
            found = self.inside.call(sizes, self.scene.operator.environment["POLICYC_BPFFS"])
            if not any(found.values()):
                return
            if time.monotonic() > end:
                raise Failed(f"left in the tables when all connections are gone: {found}")
            time.sleep(0.5)


def unreclaimable() -> int:
    """Bytes of kernel memory."""
    found = re.search(r"SUnreclaim:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    return int(found[1]) << 10


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--requests", type=int, default=1_000_000, help="how many must be answered")
    options.add_argument("--seed", type=int, default=1, help="of when loads are killed")
    chosen = options.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="policyc-soak-") as folder, Scene(Path(folder), loopback=True) as scene:
        soak = Soak(scene, chosen.seed)
        print(f"more connections than room: {soak.overfull()}", flush=True)
        soak.empty()
        answered, before, rounds = 0, 0, 0
        while answered < chosen.requests:
            answered += soak.round()
            soak.empty()
            rounds += 1
            before = before or unreclaimable()
            print(f"{answered:,} requests, {soak.loads} loads, {soak.killed} of them killed, {time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
        grown = unreclaimable() - before
        if grown > GROWTH:
            raise Failed(f"kernel memory has grown by {grown >> 20} MiB")
    print(f"{answered:,} requests in {rounds} rounds; tables empty, kernel memory {grown / (1 << 20):+.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
