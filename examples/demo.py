"""The Star Wars policy, from its text to packets that do not arrive and requests that are refused: `make demo`.

Everything happens in network and mount namespaces of its own, with the same commands an operator types. What a client
meets is compared with what the policy says; a difference makes the exit code 1. Where this machine's kernel cannot be
used, all this happens in an emulated machine with a Debian kernel; where that cannot be had either, the reference
evaluator judges the same attempts."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "kernels"))

import archive
import demo_http
import guest
import http_server
from operator_commands import Failed, Operator, not_installed
from private_cgroup import Cgroup
from private_network import Network, Unavailable
from screen import heading, say, style

HERE = Path(__file__).parent
POLICY = HERE / "starwars.pol"
ENDPOINTS = HERE / "endpoints" / "starwars.yaml"
EMULATED = "POLICYC_DEMO_EMULATED"  # in the emulated machine: the object that was compiled outside
SLOWER = 10 if EMULATED in os.environ else 1
TIME_LIMIT, EMULATION_LIMIT = 120 * SLOWER, 900  # seconds for everything; where it happens in an emulated machine
COMMAND_LIMIT = 90  # seconds for a command of policyc; on a machine with nothing else to do the slowest takes four
PATIENCE = 3 if EMULATED in os.environ else 1  # seconds for an answer
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "ss", "curl", "ping")
DOCKS = (22, 80, 8080)  # what the Death Star serves, whatever the policy says of it

HOMES = {
    "deathstar": ("10.1.0.2/24", "2001:db8:1::2/64"),
    "tiefighter": ("10.2.0.2/24", "2001:db8:2::2/64"),
    "xwing": ("203.0.113.7/28", "2001:db8:bad::7/64"),
    "falcon": ("203.0.113.70/28", "2001:db8:f::2/64"),
}
DISGUISE = {"org": "empire", "class": "tiefighter"}  # the falcon's labels while it passes for a tie fighter


@dataclass
class Attempt:
    """One client: who, and what on the Death Star. `answer` and `verdict` are filled in as they become known."""

    who: str
    service: str  # `tcp/80`, `ping`
    version: int
    answered: bool | None = None
    says: dict[str, Any] = field(default_factory=dict)  # what the policy says: a line of `policyc eval`
    event: dict[str, Any] | None = None  # what the kernel reports

    @property
    def source(self) -> str:
        return _address(self.who, self.version)

    @property
    def target(self) -> str:
        return _address("deathstar", self.version)

    @property
    def allowed(self) -> bool:
        return bool(self.says["verdict"] == "allow")

    def flow(self) -> dict[str, Any]:
        """As `policyc eval` reads it."""
        ends = {"src": self.source, "dst": self.target}
        if self.service == "ping":
            proto, echo = ("icmp", 8) if self.version == 4 else ("icmpv6", 128)
            return {**ends, "proto": proto, "icmp_type": echo}
        return {**ends, "proto": "tcp", "dport": int(self.service.removeprefix("tcp/"))}

    def client(self) -> list[str]:
        if self.service == "ping":
            return ["ping", "-n", "-c", "1", "-W", str(PATIENCE), self.target]
        host = f"[{self.target}]" if self.version == 6 else self.target
        port = self.service.removeprefix("tcp/")
        return ["curl", "-s", "-o", "/dev/null", "-m", str(PATIENCE), f"http://{host}:{port}/"]


def _address(who: str, version: int) -> str:
    return next(a.partition("/")[0] for a in HOMES[who] if (":" in a) == (version == 6))


def attempts() -> list[Attempt]:
    return [
        Attempt("tiefighter", "tcp/80", 4),
        Attempt("tiefighter", "tcp/8080", 6),
        Attempt("tiefighter", "tcp/22", 4),
        Attempt("xwing", "tcp/80", 4),
        Attempt("xwing", "ping", 6),
        Attempt("falcon", "ping", 4),
        Attempt("falcon", "tcp/80", 4),
    ]


# --- what is printed ------------------------------------------------------------------------------------------------


def show(tried: Iterable[Attempt]) -> None:
    """One line an attempt: who, to where, what came of it, and the line of the policy that decided."""
    for one in tried:
        verdict = one.allowed if one.answered is None else one.answered
        word = {True: "allowed", False: "denied"}[verdict] if one.answered is None else _outcome(one)
        ends = f"{one.who:<11}{one.service:<9}IPv{one.version}"
        wrong = "" if one.answered in (None, one.allowed) else style("  NOT WHAT THE POLICY SAYS", 31)
        print(f"  {ends}  {style(f'{word:<9}', 32 if verdict else 31)}  {decided_by(one)}{wrong}", flush=True)


def _outcome(one: Attempt) -> str:
    return "lands" if one.answered else "no answer"


def decided_by(one: Attempt) -> str:
    """The rule and its text; the kernel's word where there is an event, else the evaluator's."""
    said = one.event or one.says
    if said["rule"] is None:
        isolating = [p for step in one.says["steps"] for p in step["isolated_by"]]
        return (
            f"{said['reason']}: no rule matches, and {', '.join(isolating)} isolates" if isolating else said["reason"]
        )
    line = int(said["rule"].split(":")[1])
    return f"{said['ref']}  {POLICY.name}:{line}  {style(POLICY.read_text().splitlines()[line - 1].strip(), 2)}"


# --- policyc, as an operator runs it ----------------------------------------------------------------------------------


class Judge(Operator):
    """An operator who asks the reference evaluator what the policy says, and the kernel what it reported."""

    def judge(self, tried: list[Attempt], endpoints: Path) -> None:
        flows = "".join(json.dumps(one.flow()) + "\n" for one in tried)
        answers = self.policyc("eval", str(POLICY), "--endpoints", str(endpoints), given=flows)
        for one, answer in zip(tried, answers.splitlines(), strict=True):
            one.says = json.loads(answer)

    def events(self) -> list[dict[str, Any]]:
        """What the kernel has reported since this was asked last."""
        lines = self.policyc(
            "monitor", "empire", "--format", "json", "--timeout", f"{0.1 * PATIENCE + 0.2:.1f}"
        ).splitlines()
        return [json.loads(line) for line in lines]


def compile_and_test(operator: Operator) -> Path:
    """Both policies, at the same time; returns the first's object. The other's lies beside it."""
    policies = (POLICY, demo_http.POLICY)
    with ThreadPoolExecutor() as pool:
        compiled = [pool.submit(_compile, operator, policy) for policy in policies]
        tested = [pool.submit(operator.policyc, "test", str(policy)) for policy in policies]
        for policy, one, other in zip(policies, compiled, tested, strict=True):
            say("compiled", f"{policy.name}: {one.result()}")
            say("tested", other.result().strip())
    return _object(operator, POLICY)


def _compile(operator: Operator, policy: Path) -> str:
    """What came of it, in words."""
    built = _object(operator, policy)
    began = time.monotonic()
    operator.policyc("compile", str(policy), "-o", str(built))
    took = time.monotonic() - began
    facts = json.loads(operator.policyc("inspect", str(built), "--format", "json"))
    rules, entries = (len(facts["manifest"][what]) for what in ("rules", "entries"))
    what = f"{rules} rules" + (f" and {entries} entries" if entries else "")
    return f"{what}, {built.stat().st_size >> 10} KiB, every hook, in {took:.1f} s"


def _object(operator: Operator, policy: Path) -> Path:
    return operator.folder / f"{policy.stem}.o"


def disguised(folder: Path) -> Path:
    """The endpoints file with the falcon passing for a tie fighter."""
    falcon = {"name": "falcon", "addresses": [_address("falcon", 4)], "labels": DISGUISE}
    return _written(folder / "disguised.yaml", [*_endpoints(), falcon])


def with_cgroup(folder: Path, cgroup: Path) -> Path:
    """The endpoints file with the Death Star's cgroup, where its streams are judged."""
    star, *others = _endpoints()
    return _written(folder / "with-cgroup.yaml", [{**star, "cgroup": str(cgroup)}, *others])


def _endpoints() -> list[dict[str, Any]]:
    import yaml

    found: list[dict[str, Any]] = yaml.safe_load(ENDPOINTS.read_text())["endpoints"]
    return found


def _written(path: Path, endpoints: list[dict[str, Any]]) -> Path:
    """JSON is YAML too."""
    path.write_text(json.dumps({"version": 1, "endpoints": endpoints}))
    return path


# --- with the kernel --------------------------------------------------------------------------------------------------


def build(network: Network, folder: Path, cgroup: Cgroup | None) -> str:
    """Guests, and a server on the Death Star, in the cgroup; returns what it is."""
    for name, addresses in HOMES.items():
        network.guest(name, addresses)
    network.settle()
    star = network.guests["deathstar"]
    what, command = http_server.command(folder, "welcome aboard", DOCKS)
    star.start(*(cgroup.command(*command) if cgroup else command), stderr=subprocess.DEVNULL)
    star.wait_for_listeners(DOCKS)
    return what


def go(network: Network, tried: list[Attempt]) -> None:
    """All clients at once."""
    running = [
        subprocess.Popen(
            network.guests[one.who].command(*one.client()), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for one in tried
    ]
    try:
        for one, client in zip(tried, running, strict=True):
            one.answered = client.wait(PATIENCE + 5 * SLOWER) == 0
    finally:
        for client in running:
            client.kill()
            client.wait()


def match_events(tried: list[Attempt], events: list[dict[str, Any]]) -> None:
    """Gives each attempt the event of the Death Star's side that stands for it."""
    for one in tried:
        port = one.flow().get("dport")
        one.event = next(
            (
                e
                for e in events
                if e["direction"] == "ingress"
                and (e["src"]["address"], e["dst"]["address"], e["dst"]["port"]) == (one.source, one.target, port)
            ),
            None,
        )


def differences(tried: list[Attempt]) -> list[str]:
    """Where a client, or the kernel's event, disagrees with the policy."""
    found = []
    for one in tried:
        what = f"{one.who} {one.service} IPv{one.version}"
        if one.answered != one.allowed:
            found.append(f"{what}: the policy says {one.says['verdict']}, the client {_outcome(one)}")
        said = one.event and (one.event["verdict"], one.event["ref"])
        if said != (one.says["verdict"], one.says["ref"]):
            found.append(f"{what}: the policy says {one.says['verdict']} by {one.says['ref']}, the kernel {said}")
    return found


def scene(network: Network, operator: Judge, tried: list[Attempt], endpoints: Path) -> list[str]:
    operator.judge(tried, endpoints)
    go(network, tried)
    match_events(tried, operator.events())
    show(tried)
    return differences(tried)


def with_the_kernel(operator: Judge, network: Network, cgroup: Cgroup | None, built: Path) -> list[str]:
    """Returns the differences between the policy and what happened."""
    server = build(network, operator.folder, cgroup)
    say("network", f"{', '.join(HOMES)}: a network namespace each, {server} on the Death Star")
    before = attempts()
    go(network, before)
    landed = sum(one.answered is True for one in before)
    say("before", f"no policy is loaded, and {landed} of {len(before)} attempts land")
    found = [] if landed == len(before) else ["the network does not carry what no policy forbids"]

    loaded = operator.policyc("load", str(built), "--name", "empire", "--endpoints", str(ENDPOINTS), "--events", "all")
    try:
        say("loaded", "; ".join(line.strip() for line in loaded.splitlines()))
        emulated = ", emulated" if EMULATED in os.environ else ""
        say(
            "engine",
            f"the kernel, Linux {platform.release()}{emulated}: tc programs at the links; the loader has exited",
        )
        heading("Who lands on the Death Star")
        found += scene(network, operator, attempts(), ENDPOINTS)
        heading("The falcon is registered as a tie fighter: one map write, no recompile, no reload")
        labels = [f"--label={key}={value}" for key, value in DISGUISE.items()]
        operator.policyc("endpoint", "add", "empire", "falcon", "--address", _address("falcon", 4), *labels)
        found += scene(network, operator, [Attempt("falcon", "tcp/80", 4)], disguised(operator.folder))
        heading("And found out")
        operator.policyc("endpoint", "remove", "empire", "falcon")
        found += scene(network, operator, [Attempt("falcon", "tcp/80", 4)], ENDPOINTS)
        heading("policyc counters empire")
        print("  " + operator.policyc("counters", "empire").rstrip().replace("\n", "\n  "))
        found += by_http(operator, network, cgroup, built)
    finally:
        unloaded = operator.policyc("unload", "empire")
    print()
    say("unloaded", "; ".join(line.strip() for line in unloaded.splitlines()))
    return found


def by_http(operator: Operator, network: Network, cgroup: Cgroup | None, built: Path) -> list[str]:
    """The policy is replaced by one that judges requests, while the server runs."""
    ends = _address("tiefighter", 4), _address("deathstar", 4)
    if cgroup is None:
        heading("No cgroup can be made here, so that requests are judged by the reference evaluator only")
        demo_http.without_the_kernel(operator, ENDPOINTS, *ends)
        return []
    endpoints = with_cgroup(operator.folder, cgroup.path)
    other = str(built.with_name(f"{demo_http.POLICY.stem}.o"))
    replaced = operator.policyc("load", other, "--name", "empire", "--endpoints", str(endpoints), "--events", "all")
    print()
    say("replaced", "; ".join(line.strip() for line in replaced.splitlines()))
    return demo_http.scene(operator, "empire", network.guests["tiefighter"], endpoints, ends, SLOWER)


# --- with the kernel of an emulated machine ------------------------------------------------------------------------------


def in_emulated_machine(built: Path, why: str) -> int:
    """The rest of the demo in there; returns its exit code. Raises `archive.Unavailable`."""
    if why.startswith("libbpf: ") or not_installed(TOOLS) is not None:
        raise archive.Unavailable("it would have this machine's files, and lack the same")
    architecture = archive.native()
    guest.emulator(architecture)
    kernel = archive.kernel(architecture)
    say("engine", f"Linux {kernel.release} in a machine that QEMU emulates, because this one's kernel cannot be used:")
    say("", why)
    say("", "what follows happens in there, as root, with this machine's files; it takes some minutes")
    signal.alarm(EMULATION_LIMIT)
    inside = {EMULATED: str(built), "PYTHONUNBUFFERED": "1"}
    try:
        return guest.run(kernel, [sys.executable, str(Path(__file__).absolute())], environment=inside)
    except guest.Died as error:
        raise Failed(f"the emulated machine: {error}") from None


# --- without it ---------------------------------------------------------------------------------------------------------


def without_the_kernel(operator: Judge, built: Path, why: str) -> list[str]:
    say("engine", "the reference evaluator, because the kernel cannot be used here:")
    say("", why)
    heading("policyc inspect starwars.o")
    about = operator.policyc("inspect", str(built)).partition("maps:")[0].splitlines()[1:]
    print("\n".join(about))
    heading("Who would land on the Death Star")
    tried = attempts()
    operator.judge(tried, ENDPOINTS)
    show(tried)
    heading("If the falcon were registered as a tie fighter")
    landing = [Attempt("falcon", "tcp/80", 4)]
    operator.judge(landing, disguised(operator.folder))
    show(landing)
    demo_http.without_the_kernel(operator, ENDPOINTS, _address("tiefighter", 4), _address("deathstar", 4))
    return []


# --- all of it ------------------------------------------------------------------------------------------------------------


@contextmanager
def bounded() -> Iterator[None]:
    """Ends what runs too long, and lets a signal end it in order."""

    def stop(number: int, frame: object) -> None:
        raise Failed(f"not done after {TIME_LIMIT} s" if number == signal.SIGALRM else "ended by a signal")

    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    signal.alarm(TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)


@contextmanager
def own_cgroup() -> Iterator[Cgroup | None]:
    """One for the Death Star's server, or None."""
    with ExitStack() as stack:
        made = None
        with suppress(Unavailable):
            made = stack.enter_context(Cgroup("policyc-demo"))
        yield made


def run(folder: Path) -> int:
    operator = Judge(folder, patience=COMMAND_LIMIT * SLOWER)
    why: str | None = None
    if EMULATED in os.environ:
        built = Path(os.environ[EMULATED])
    else:
        print(
            f"{style('policyc demo', 1)}: {POLICY.relative_to(HERE.parent)} and {demo_http.POLICY.name}, against real clients\n",
            flush=True,
        )
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(operator.why_not, TOOLS)
            built = compile_and_test(operator)
            why = asked.result()
    found: list[str] = []
    if why is None:
        try:
            with ExitStack() as stack:
                cgroup = stack.enter_context(own_cgroup())
                network = stack.enter_context(Network())
                found = with_the_kernel(Judge(folder, network.machine, COMMAND_LIMIT * SLOWER), network, cgroup, built)
        except Unavailable as error:
            why = f"no network namespace can be made: {error}"
    if why is not None and EMULATED in os.environ:
        raise Failed(why)
    if why is not None:
        try:
            return in_emulated_machine(built, why)
        except archive.Unavailable as error:
            found = without_the_kernel(operator, built, f"{why}; and none can be emulated: {error}")
    print()
    for difference in found:
        print(style(f"WRONG: {difference}", 31))
    if not found:
        print(style("Every verdict is what the policy says." if why is None else "No packet was sent.", 32))
    return 1 if found else 0


def main() -> int:
    try:
        with bounded(), tempfile.TemporaryDirectory(prefix="policyc-demo-") as folder:
            return run(Path(folder))
    except (Failed, subprocess.TimeoutExpired) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nended; nothing is left behind", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
