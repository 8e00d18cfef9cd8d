"""The same job by policyc and by others, on live frames: dropping, and counting apart, what a list of addresses and UDP ports
names and what it does not.

`python -m benchmarks.bench_frames [--quick] [--out FILE]`, as root. Each contender has a veth of its own, the peers' in network
namespaces of their own. A driver program under BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES writes the next of 65,536 sources
into each frame, half of them random members of the list and half random strangers, and redirects it into that veth; the time is that of
the whole way, until the frame is dropped. Every figure includes what sending and receiving cost (`harness`: a program that drops everything by XDP). All contenders take turns in every
round; medians count. Each contender's own counter must show every frame."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import drivers, figures, place, rulesets
from benchmarks.drivers import CURSOR, PACKETS, SAME_PORTS, TUPLE, tuples
from benchmarks.figures import Figure
from benchmarks.loads import Loaded, Wrong, compiled, loaded
from benchmarks.rulesets import Packet, RuleSet, dotted
from policyc.artifact.layout import Reason
from policyc.artifact.reader import Artifact
from policyc.codegen.direct import Context
from policyc.runtime.libbpf import check, ffi, lib
from policyc.runtime.maps import Map
from policyc.runtime.object import Object
from tests.platform.program import array, returns
from tests.platform.program import loaded as programs_loaded

FED = 1 << 16
LIVE_FRAMES, BATCH = 2, 64  # linux/bpf.h
BPF_XDP, XDP_DROP = 37, 1
SLOW = 1_000  # rules beyond which a chain is not tried at every size
LINEAR_FRAMES = 20_000_000  # frames times rules in one run of a chain
NFT_TABLE = """table netdev bench {
 set listed { type ipv4_addr . inet_service; %s }
 chain arriving {
  type filter hook ingress device %s priority 0
  ip saddr . udp dport @listed counter drop
  counter drop
 }
}
"""


class Contender(ABC):
    """One way to drop what is listed, set up at its own device. `name` says what does it."""

    name = ""
    tools: tuple[str, ...] = ()
    namespace: str | None = None

    def __init__(self, number: int) -> None:
        self.sender, self.device = f"s{number}", f"d{number}"
        self.namespace = f"n{number}" if self.foreign() else None

    def foreign(self) -> bool:
        return True

    def link(self) -> None:
        """The device's frame header is in `frame` from here on."""
        place.add_link(self.sender, self.device)
        self.frame = drivers.frame(place.mac(self.device))
        self.index = place.ifindex(self.sender)
        if self.namespace:
            place.move(self.device, self.namespace)

    def run(self, *command: str, text: str | None = None) -> str:
        return place.run(*place.inside(self.namespace), *command, text=text)

    @abstractmethod
    def install(self, listed: Sequence[Packet], resources: ExitStack) -> None:
        """Has `listed` dropped until `resources` are closed."""

    @abstractmethod
    def dropped(self) -> int:
        """Frames dropped so far."""

    def frames(self, wanted: int, rules: int) -> int:
        """How many frames one run has."""
        return wanted


class Harness(Contender):
    name = "harness"

    def foreign(self) -> bool:
        return False

    def install(self, listed: Sequence[Packet], resources: ExitStack) -> None:
        made = resources.enter_context(programs_loaded({("xdp", "drop"): returns(XDP_DROP)}))
        fd = check(
            lib().bpf_link_create(made.program_fd("drop"), place.ifindex(self.device), BPF_XDP, ffi.NULL), "attach"
        )
        resources.callback(os.close, fd)

    def dropped(self) -> int:
        (link,) = json.loads(place.run("ip", "-json", "-s", "link", "show", "dev", self.device))
        return int(link["stats64"]["rx"]["packets"])


class Ours(Contender):
    def __init__(self, number: int, name: str, xdp: bool, artifact: Artifact, rules: RuleSet) -> None:
        super().__init__(number)
        self.name, self._xdp, self._artifact, self._rules = name, xdp, artifact, rules

    def foreign(self) -> bool:
        return False

    def install(self, listed: Sequence[Packet], resources: ExitStack) -> None:
        spec = f"uplink:{self.device}{'+xdp' * self._xdp}"
        name = f"bench{self.device}"
        self._load: Loaded = resources.enter_context(loaded(self._artifact, self._rules, spec, name=name))
        self._load.begin()

    def dropped(self) -> int:
        judged = self._load.judged()
        return sum(judged.get((False, reason), 0) for reason in (Reason.RULE, Reason.DEFAULT))


class NftSet(Contender):
    name = "nftables set"
    tools = ("nft",)

    def install(self, listed: Sequence[Packet], resources: ExitStack) -> None:
        elements = ", ".join(f"{dotted(a)} . {p}" for a, p in listed)
        self.run("nft", "-f", "-", text=NFT_TABLE % (f"elements = {{ {elements} }}", self.device))
        resources.callback(self.run, "nft", "delete", "table", "netdev", "bench")

    def dropped(self) -> int:
        listing = self.run("nft", "list", "chain", "netdev", "bench", "arriving")
        return sum(map(int, re.findall(r"counter packets (\d+)", listing)))


class Ipset(Contender):
    """A set asked by a rule of iptables in the raw table."""

    name = "ipset (iptables raw)"
    tools = ("ipset", "iptables-legacy")

    def install(self, listed: Sequence[Packet], resources: ExitStack) -> None:
        lines = [f"create listed hash:ip,port maxelem {max(len(listed), 64)} hashsize {max(len(listed), 64)}"]
        lines += [f"add listed {dotted(a)},udp:{p}" for a, p in listed]
        self.run("ipset", "restore", text="\n".join(lines) + "\n")
        resources.callback(self.run, "ipset", "destroy", "listed")
        rule = ("PREROUTING", "-m", "set", "--match-set", "listed", "src,dst", "-j", "DROP")
        self.run("iptables-legacy", "-t", "raw", "-A", *rule)
        self.run("iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-j", "DROP")
        resources.callback(self.run, "iptables-legacy", "-t", "raw", "-F")

    def dropped(self) -> int:
        return _raw_packets(self.run("iptables-legacy", "-t", "raw", "-L", "PREROUTING", "-nvx"))


class Chain(Contender):
    """One rule of iptables each, in the raw table."""

    def __init__(self, number: int, variant: str) -> None:
        super().__init__(number)
        self.name, self._command = f"iptables-{variant} rules", f"iptables-{variant}"
        self.tools = (self._command, f"{self._command}-restore")

    def install(self, listed: Sequence[Packet], resources: ExitStack) -> None:
        lines = [f"-A PREROUTING -s {dotted(a)}/32 -p udp -m udp --dport {p} -j DROP" for a, p in listed]
        self.run(f"{self._command}-restore", text="\n".join(["*raw", *lines, "-A PREROUTING -j DROP", "COMMIT", ""]))
        resources.callback(self.run, self._command, "-t", "raw", "-F")

    def dropped(self) -> int:
        return _raw_packets(self.run(self._command, "-t", "raw", "-L", "PREROUTING", "-nvx"))

    def frames(self, wanted: int, rules: int) -> int:
        return max(min(wanted, LINEAR_FRAMES // rules), 1000)


def _raw_packets(listing: str) -> int:
    return sum(int(line.split()[0]) for line in listing.splitlines()[2:])


class Flood:
    """The driver, which goes through tuples and sends frames into a device."""

    def __init__(self, made: Object) -> None:
        self._fd, self._cursor = made.program_fd("flood"), made.map_fd("cursor")
        self._tuples = made.map_fd("tuples")

    def feed(self, entries: Sequence[bytes]) -> None:
        table = Map(os.dup(self._tuples), "tuples")
        table.update_many([(n.to_bytes(4, "little"), entry) for n, entry in enumerate(entries)])
        table.close()
        self._mask = len(entries) - 1
        self._count = 0

    def run(self, contender: Contender, frames: int) -> float:
        """ns a frame."""
        cursor = CURSOR.pack(self._count, self._mask, SAME_PORTS, contender.index)
        assert lib().bpf_map_update_elem(self._cursor, bytes(4), cursor, 0) == 0
        self._count += frames
        run = ffi.new("struct bpf_test_run_opts *")
        run.sz = ffi.sizeof("struct bpf_test_run_opts")
        data = ffi.from_buffer(contender.frame)
        run.data_in, run.data_size_in = data, len(contender.frame)
        run.repeat, run.flags, run.batch_size = frames, LIVE_FRAMES, BATCH
        check(lib().bpf_prog_test_run_opts(self._fd, run), "send live frames")
        return float(run.duration)


@contextmanager
def flood() -> Iterator[Flood]:
    maps = [array("cursor", CURSOR.size, 1), array("tuples", TUPLE.size, PACKETS)]
    with programs_loaded({("xdp", "flood"): lambda f, m: drivers.flood(f, m, Context.XDP)}, maps) as made:
        yield Flood(made)


def race(source: Flood, contenders: Sequence[Contender], size: int, wanted: int, rounds: int) -> dict[str, float]:
    """Median ns a frame of each, with the list of that size."""
    listed = rulesets.pair_list(size)
    rng = random.Random(size)
    source.feed(tuples(rulesets.half_listed(rng, listed, FED)))
    taken: dict[str, list[float]] = {c.name: [] for c in contenders}
    with ExitStack() as resources:
        for contender in contenders:
            contender.install(listed, resources)
            source.run(contender, contender.frames(wanted, size))
        for _ in range(rounds):
            for contender in contenders:
                frames = contender.frames(wanted, size)
                before = contender.dropped()
                taken[contender.name].append(source.run(contender, frames))
                seen = contender.dropped() - before
                if seen < 0.999 * frames:
                    raise Wrong(f"{contender.name}, {size} rules: dropped {seen} of {frames} frames")
    return {name: statistics.median(samples) for name, samples in taken.items()}


def contenders(size: int) -> Iterator[Contender]:
    rules = rulesets.pairs(size, "deny")
    artifact = compiled(rules)
    yield Harness(0)
    yield Ours(1, "policyc XDP", True, artifact, rules)
    yield Ours(2, "policyc XDP stateless", True, compiled(rules, stateless=True), rules)
    yield Ours(3, "policyc tc", False, artifact, rules)
    peers: list[Contender] = [NftSet(4), Ipset(5)]
    if size <= SLOW:
        peers += [Chain(6, "legacy"), Chain(7, "nft")]
    for peer in peers:
        missing = [tool for tool in peer.tools if shutil.which(tool) is None]
        if missing:
            print(f"NOT MEASURED: {peer.name}: {', '.join(missing)} is not installed", file=sys.stderr)
        else:
            yield peer


def measured(sizes: Sequence[int], wanted: int, rounds: int) -> Iterator[Figure]:
    with flood() as source:
        for number, size in enumerate(sizes):
            found = list(contenders(size))
            for contender in found:
                # Devices and namespaces of one size do not meet those of another.
                contender.sender, contender.device = f"s{number}{contender.sender}", f"d{number}{contender.device}"
                contender.namespace = contender.namespace and f"n{number}{contender.namespace}"
                contender.link()
            medians = race(source, found, size, wanted, rounds)
            for name, ns in medians.items():
                yield Figure("frames", f"{name}, {size:,} rules", round(ns, 1), "ns/frame")
            yield from ratios(medians, size)


def ratios(medians: dict[str, float], size: int) -> Iterator[Figure]:
    harness, usual = medians["harness"], usual_iptables()
    for ours in ("policyc XDP", "policyc XDP stateless", "policyc tc"):
        for peer in medians:
            if peer == "harness" or peer.startswith("policyc"):
                continue
            target = None
            if ours == "policyc XDP" and peer == NftSet.name and size >= SLOW:
                target = ">= 1.3"
            if ours == "policyc XDP" and peer == f"iptables-{usual} rules" and size == SLOW:
                target = ">= 20"
            ratio = medians[peer] / medians[ours]
            net = (medians[peer] - harness) / max(medians[ours] - harness, 0.1)
            yield Figure(
                "ratios",
                f"{ours} against {peer}, {size:,} rules",
                round(ratio, 2),
                "× faster",
                target,
                f"without the harness {net:.1f}",
            )


def usual_iptables() -> str | None:
    """Which of both the command `iptables` is here: `nft` or `legacy`."""
    if shutil.which("iptables") is None:
        return None
    return "nft" if "nf_tables" in place.run("iptables", "--version") else "legacy"


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="smaller lists, fewer rounds")
    options.add_argument("--out", type=Path, help="where the figures go")
    chosen = options.parse_args()
    place.enter()
    sizes, wanted, rounds = ((10, 1000), 50_000, 5) if chosen.quick else ((10, 100, 1000, 10_000, 100_000), 200_000, 9)
    figures.report(measured(sizes, wanted, rounds), chosen.out)


if __name__ == "__main__":
    main()
