"""A scene for HTTP under policy: `web`, who asks, `api`, who serves, and `world`, each in a cgroup of its own, and an operator
who loads policies with the real commands.

In a `Scene` each has a network namespace of its own behind a machine, as guests have (`tests/e2e`); with `loopback` all share the
machine's namespace and their addresses are on its loopback device, as plain services have it. Everything is made here and is gone after `close`,
also where that happens because of a failure."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "examples"))

from private_network import Namespace, Network, end_process  # noqa: E402

from policyc.runtime.cgroups import mount_point  # noqa: E402
from tests.e2e.operation import Operator, compile_policy  # noqa: E402
from tests.l7.agent import Agent, joining  # noqa: E402

HOMES = {
    "web": ("10.9.1.2/24", "fd09:1::2/64"),
    "api": ("10.9.2.2/24", "fd09:2::2/64"),
    "world": ("203.0.113.2/24", "2001:db8:bad::2/64"),
}
LOAD = "l7"  # what loads are called
PORT = 8080  # the first of the ports that servers take
SPARE = "10.9.1.77"  # an address of `web` that no kernel has: of connections made by hand
FASTOPEN = 0x1 | 0x2 | 0x4 | 0x200  # client and server, both without a cookie (Documentation/networking/ip-sysctl.rst)
_numbers = itertools.count()


class Groups:
    """Cgroups `web`, `api`, `world` below one of the scene's own, and `outside` for what nobody judges."""

    NAMES = (*HOMES, "outside")

    def __init__(self) -> None:
        self.top = mount_point() / f"policyc-l7-{os.getpid()}-{next(_numbers)}"
        for name in self.NAMES:
            (self.top / name).mkdir(parents=True)

    def __getitem__(self, name: str) -> Path:
        return self.top / name

    def close(self) -> None:
        """Ends what still runs in them: workers whose master was killed, for one."""
        for folder in [*(self.top / name for name in self.NAMES), self.top]:
            if not folder.exists():
                continue
            for process in (folder / "cgroup.procs").read_text().split():
                _kill(int(process))
            _remove(folder)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _remove(folder: Path) -> None:
    """A group stays busy for a moment after its last process ended."""
    for _ in range(100):
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.02)
    folder.rmdir()


def link_address(namespace: Namespace, device: str) -> bytes:
    (link,) = json.loads(namespace.run("ip", "-json", "link", "show", "dev", device, check=True).stdout)
    return bytes.fromhex(link["address"].replace(":", ""))


class Scene:
    def __init__(self, folder: Path, loopback: bool = False) -> None:
        self.folder, self.loopback = folder, loopback
        self.groups = Groups()
        self._built: dict[str, Path] = {}
        self.agents: list[Agent] = []
        self._processes: list[subprocess.Popen[Any]] = []
        try:
            self.network = Network()
        except BaseException:
            self.groups.close()
            raise
        try:
            self.operator = Operator(self.network.machine, folder)
            self._addresses()
        except BaseException:
            self.close()
            raise

    def _addresses(self) -> None:
        if self.loopback:
            self.network.machine.ip(
                *(f"addr add {a.partition('/')[0]} dev lo" for homes in HOMES.values() for a in homes)
            )
            spaces = {self.network.machine}
        else:
            for name, addresses in HOMES.items():
                self.network.guest(name, addresses)
            self.network.settle()
            spaces = set(self.network.guests.values())
        for space in spaces:
            space.run("sysctl", "-qw", f"net.ipv4.tcp_fastopen={FASTOPEN}")

    def namespace(self, name: str) -> Namespace:
        return self.network.machine if self.loopback else self.network.guests[name]

    def address(self, name: str, version: int = 4) -> str:
        return HOMES[name][version == 6].partition("/")[0]

    # --- who acts -------------------------------------------------------------------------------------------------

    def agent(self, name: str, group: str | None = None) -> Agent:
        """A process at `name`'s place, in its cgroup or another."""
        made = Agent(self.namespace(name), self.groups[group or name])
        self.agents.append(made)
        return made

    def start(self, name: str, *command: str, group: str | None = None, **options: Any) -> subprocess.Popen[Any]:
        """A program in the background at `name`'s place, in its cgroup or another."""
        process = self.namespace(name).start(*joining(self.groups[group or name], *command), **options)
        self._processes.append(process)
        return process

    def run(self, name: str, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A program to its end, in `name`'s cgroup, its output captured as text."""
        return self.namespace(name).run(*joining(self.groups[name], *command), **options)

    # --- the way between ------------------------------------------------------------------------------------------

    @contextmanager
    def cut(self) -> Iterator[None]:
        """No packet gets through between `web` and `api`; not on loopback."""
        both = [f"route add blackhole {self.address(name)}/32" for name in ("web", "api")]
        self.network.machine.ip(*both)
        try:
            yield
        finally:
            self.network.machine.ip(*(line.replace("add", "del", 1) for line in both))

    def give_spare(self) -> None:
        """Has the machine send packets for `SPARE` to `web`'s device, whose kernel does not know it."""
        link = link_address(self.namespace("web"), "eth0")
        self.network.machine.ip(f"neigh replace {SPARE} lladdr {link.hex(':')} dev web nud permanent")

    # --- policies -------------------------------------------------------------------------------------------------

    def endpoints(self, bound: Mapping[str, str]) -> Path:
        """An endpoints file with all of `web` and `api` and what each is bound by: `cgroup`, `interface`, `both` or `` (nothing)."""
        entries: list[dict[str, Any]] = []
        for name in ("web", "api"):
            addresses = [self.address(name, 4), self.address(name, 6), *([SPARE] if name == "web" else [])]
            entry: dict[str, Any] = {"name": name, "addresses": addresses, "labels": {"app": name}}
            by = bound.get(name, "")
            if by in ("cgroup", "both"):
                entry["cgroup"] = str(self.groups[name])
            if by in ("interface", "both"):
                entry["interface"] = name
            entries.append(entry)
        return self.operator.endpoints(*entries)

    def compile(self, text: str) -> Path:
        """Each text once."""
        if text not in self._built:
            self._built[text] = compile_policy(text, self.folder / f"p{len(self._built)}")
        return self._built[text]

    def load(self, text: str, *attach: str, events: str = "all", **bound: str) -> None:
        """Compiles and loads, with what `web` and `api` are bound by (the server's cgroup if nothing is said)."""
        built = self.compile(text)
        specs = [word for spec in attach for word in ("--attach", spec)]
        chosen = bound or {"api": "cgroup"}
        self.operator.run(
            "load", str(built), "--name", LOAD, "--endpoints", str(self.endpoints(chosen)), "--events", events, *specs
        )  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        """What `policyc monitor` tells since it was asked last."""
        return self.operator.events(LOAD)

    def unload(self) -> None:
        self.operator.unload_all()

    @contextmanager
    def loaded(self, text: str, *attach: str, **more: str) -> Iterator[None]:
        self.load(text, *attach, **more)
        try:
            yield
        finally:
            self.unload()

    # --- the end --------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Ends all agents and programs."""
        for agent in self.agents:
            agent.close()
        self.agents.clear()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                pass
            end_process(process)
        self._processes.clear()

    def close(self) -> None:
        steps: list[Callable[[], None]] = [self.rest]
        if hasattr(self, "operator"):
            steps.append(self.unload)
        steps += [self.network.close, self.groups.close]
        failure: Exception | None = None
        for step in steps:
            try:
                step()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
