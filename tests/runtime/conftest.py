"""A compiled policy, and a machine of one's own: network namespace, cgroup, bpffs and state folder."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from policyc.artifact.reader import Artifact, read
from policyc.codegen.emit import compile_object
from policyc.ir import pipeline
from policyc.model import (
    Action,
    AddressSet,
    Direction,
    Isolation,
    Op,
    PeerClass,
    PeerSame,
    PeerSelector,
    Policy,
    PolicySet,
    Requirement,
    Rule,
    Selector,
    Service,
    Span,
    Tier,
)

CLONE_NEWNET = 0x40000000
SPAN = Span("runtime.pol", 1, 1, 1, 10)
WEB = Selector((Requirement("app", Op.EQ, ("web",)),))
API = Selector((Requirement("app", Op.EQ, ("api",)),))
LIBC = ctypes.CDLL(None, use_errno=True)


def rule(
    order: int, peer: PeerClass | PeerSelector | PeerSame, *services: Service, action: Action = Action.ALLOW
) -> Rule:
    span = Span("runtime.pol", order + 2, 3, order + 2, 40)
    direction, tier = Direction.INGRESS, Tier.NORMAL
    return Rule(
        order, f"api.ingress.{order + 1}", "api", direction, tier, 100, action, (peer,), services, False, False, span
    )


def policy_set(port: int = 80) -> PolicySet:
    """Who is `api` is reached from `web` on tcp/`port`, from its own namespace on udp, by ping from anywhere."""
    rules = (
        rule(0, PeerSelector(WEB, "web"), Service(6, (port, port))),
        rule(1, PeerSame(("ns",)), Service(17)),
        rule(2, PeerClass.ANY, Service(1, icmp_type=8), Service(58, icmp_type=128)),
    )
    isolation = {Direction.INGRESS: Isolation(False, SPAN)}
    policy = Policy("api", (PeerSelector(API, "api"),), Tier.NORMAL, 100, False, isolation, rules, SPAN)
    identities: dict[str, Selector | None] = {"web": WEB, "api": API}
    return PolicySet(1, (("runtime.pol", "0" * 64),), identities, (policy,), AddressSet())


def compiled(port: int = 80) -> Artifact:
    policy = policy_set(port)
    return read(compile_object(pipeline.build(policy), policy, {}, "").object)


@pytest.fixture(scope="session")
def artifact() -> Artifact:
    return compiled()


@pytest.fixture(scope="session")
def other_artifact() -> Artifact:
    """The same policy for another port."""
    return compiled(8080)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@dataclass
class Machine:
    """A network namespace that this process is in. `guest()` makes a workload in a namespace of its own."""

    folder: Path
    guests: list[subprocess.Popen[bytes]]

    def guest(self, name: str, number: int) -> Guest:
        """Device `name` here (10.9.NUMBER.1/24, fd09:NUMBER::1/64), `eth0` there (….2)."""
        process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self.guests.append(process)
        here = os.stat("/proc/self/ns/net").st_ino
        while os.stat(f"/proc/{process.pid}/ns/net").st_ino == here:
            pass
        accept = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"
        subprocess.run(["nsenter", f"--net=/proc/{process.pid}/ns/net", "sh", "-c", accept], check=True)
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        for address in (f"10.9.{number}.1/24", f"fd09:{number}::1/64"):
            ip("addr", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        ip("link", "set", name, "up")
        guest = Guest(process.pid, f"10.9.{number}.2", f"fd09:{number}::2")
        guest.run("ip", "link", "set", "lo", "up")
        guest.run("ip", "link", "set", "eth0", "up")
        guest.run("ip", "addr", "add", f"{guest.v4}/24", "dev", "eth0")
        guest.run("ip", "addr", "add", f"{guest.v6}/64", "dev", "eth0", "nodad")
        guest.run("ip", "route", "add", "default", "via", f"10.9.{number}.1")
        guest.run("ip", "-6", "route", "add", "default", "via", f"fd09:{number}::1")
        return guest

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """In yet another network namespace; somebody stays in this one."""
        self.guests.append(subprocess.Popen(["sleep", "600"]))
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        assert LIBC.unshare(CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert LIBC.setns(home, CLONE_NEWNET) == 0
            os.close(home)


@dataclass
class Guest:
    pid: int
    v4: str
    v6: str

    def command(self, *arguments: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), check=True, capture_output=True, text=True)

    def reaches(self, address: str) -> bool:
        """Whether one ping comes back within a second."""
        done = subprocess.run(self.command("ping", "-n", "-c1", "-W1", address), capture_output=True)
        return done.returncode == 0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    bpffs = tmp_path / "bpf"
    bpffs.mkdir()
    monkeypatch.setenv("POLICYC_BPFFS", str(bpffs))
    monkeypatch.setenv("POLICYC_STATE", str(tmp_path / "state"))
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert LIBC.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    made = Machine(tmp_path, [])
    try:
        ip("link", "set", "lo", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
        yield made
    finally:
        for guest in made.guests:
            guest.kill()
            guest.wait()
        assert LIBC.setns(home, CLONE_NEWNET) == 0
        os.close(home)
        LIBC.umount2(os.fsencode(bpffs), 2)


@pytest.fixture
def cgroup(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cgroup of one's own with two levels below."""
    from policyc.runtime.cgroups import mount_point

    top = mount_point() / f"policyc-test-{os.getpid()}"
    inner = top / "inner"
    (inner / "leaf").mkdir(parents=True)
    yield top
    for folder in (inner / "leaf", inner, top):
        folder.rmdir()
