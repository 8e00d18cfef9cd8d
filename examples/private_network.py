"""Network namespaces of one's own: a router that stands for the machine, and guests behind it.

Nothing outside them is touched: devices, routes and mounts are made inside. A namespace lives as long as its holder
process, which waits on a pipe and so ends with this process however that ends."""

from __future__ import annotations

import ipaddress
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
PATIENCE = 30  # seconds until servers listen and links carry packets; a fast machine needs a few tenths of one
HOLD = """
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
for family in ipv4/ip_forward ipv6/conf/all/forwarding; do echo $0 >/proc/sys/net/$family; done
ip link set lo up && echo ready && exec cat
"""


class Unavailable(Exception):
    """Namespaces cannot be made here; the text says why."""


def end_process(process: subprocess.Popen[Any]) -> None:
    """Kills it, waits for it, and closes its pipes."""
    process.kill()
    with suppress(BrokenPipeError), process:  # what it has not read any more is lost
        pass


class Namespace:
    """A network namespace; with `mounts` also a mount namespace, of which guests take the one that `host` has."""

    def __init__(self, *, router: bool = False, mounts: bool = False, host: Namespace | None = None) -> None:
        kinds = ["--net", *(["--mount", "--propagation", "private"] if mounts else [])]
        self._started: list[subprocess.Popen[Any]] = []
        self._holder = subprocess.Popen(
            ["unshare", *kinds, "sh", "-c", HOLD, "1" if router else "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: what is inside is ended in order
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"ready\n":
            reason = self._holder.stderr.read().decode(errors="replace").strip().splitlines()
            self.close()
            raise Unavailable(reason[-1] if reason else "unshare failed")
        self.pid = self._holder.pid
        holder = self.pid if mounts else host.pid if host is not None else None
        self._enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net"]
        if holder is not None:
            self._enter.append(f"--mount=/proc/{holder}/ns/mnt")

    def command(self, *arguments: str) -> list[str]:
        return [*self._enter, *arguments]

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs to the end, with the output captured as text."""
        return subprocess.run(self.command(*arguments), **{"capture_output": True, "text": True, **options})

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        """Runs in the background until the namespace is closed, or this process ends."""
        process = subprocess.Popen(self.command("setpriv", "--pdeathsig", "KILL", *arguments), **options)
        self._started.append(process)
        return process

    def ip(self, *lines: str) -> None:
        """`ip` commands, one a line. Raises `Unavailable` with what it says."""
        done = self.run("ip", "-batch", "-", input="\n".join(lines) + "\n")
        if done.returncode != 0:
            raise Unavailable(done.stderr.strip())

    def wait_for_listeners(self, ports: Iterable[int]) -> None:
        """Until TCP servers listen on all `ports`. Raises `Unavailable` after `PATIENCE` seconds."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            listening = self.run("ss", "-Hltn").stdout
            if all(f":{port} " in listening for port in ports):
                return
            time.sleep(0.02)
        raise Unavailable(f"nobody listens on {', '.join(map(str, ports))}")

    def close(self) -> None:
        for process in [*self._started, self._holder]:
            end_process(process)


class Network:
    """A router namespace, which is the machine of the example, and guests, each behind a link of its own."""

    def __init__(self) -> None:
        self.machine = Namespace(router=True, mounts=True)
        self.guests: dict[str, Namespace] = {}
        self.addresses: dict[str, list[Interface]] = {}

    def guest(self, name: str, addresses: Sequence[str]) -> Namespace:
        """A namespace whose `eth0` has `addresses` (with prefix lengths). The machine's end of its link is the device
        `name`, with the first address of each of these prefixes."""
        guest = Namespace(host=self.machine)
        self.guests[name] = guest
        interfaces = [ipaddress.ip_interface(a) for a in addresses]
        self.addresses[name] = interfaces
        self.machine.ip(
            f"link add {name} type veth peer name eth0 netns {guest.pid}",
            *(f"addr add {i.network[1]}/{i.network.prefixlen} dev {name}{_nodad(i)}" for i in interfaces),
            f"link set {name} up",
        )
        guest.ip(
            *(f"addr add {i} dev eth0{_nodad(i)}" for i in interfaces),
            "link set eth0 up",
            *(f"route add default via {i.network[1]}" for i in interfaces),
        )
        return guest

    def settle(self) -> None:
        """Until every guest answers at all its addresses: IPv6 is ready only some time after the link is up."""
        waiting = [
            self.machine.start(
                "ping", "-n", "-q", "-c", "1", "-w", str(PATIENCE), "-i", "0.1", str(i.ip), stdout=subprocess.DEVNULL
            )
            for interfaces in self.addresses.values()
            for i in interfaces
        ]
        if any(process.wait() != 0 for process in waiting):
            raise Unavailable("the links do not carry packets")

    def close(self) -> None:
        for namespace in [*self.guests.values(), self.machine]:
            namespace.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _nodad(interface: Interface) -> str:
    return " nodad" if interface.version == 6 else ""
