"""The Star Wars policy, from its text to packets that do not arrive: `make demo`.

Everything happens in network and mount namespaces of its own, with the same commands an operator types. What a client
meets is compared with what the policy says; a difference makes the exit code 1. Where this machine's kernel cannot be
used, all this happens in an emulated machine with a Debian kernel; where that cannot be had either, the reference
evaluator judges the same attempts."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "kernels"))

import archive
import guest
from private_network import Namespace, Network, Unavailable

HERE = Path(__file__).parent
POLICY = HERE / "starwars.pol"
ENDPOINTS = HERE / "endpoints" / "starwars.yaml"
EMULATED = "POLICYC_DEMO_EMULATED"  # in the emulated machine: the object that was compiled outside
SLOWER = 10 if EMULATED in os.environ else 1
TIME_LIMIT, EMULATION_LIMIT = 55 * SLOWER, 600  # seconds for everything; where it happens in an emulated machine
PATIENCE = 3 if EMULATED in os.environ else 1  # seconds for an answer
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "curl", "ping")
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

COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def style(text: str, code: int) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def say(label: str, text: str) -> None:
    print(f"{style(f'{label:<10}', 1)} {text}", flush=True)


def heading(text: str) -> None:
    print(f"\n{style(text, 1)}", flush=True)


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


class Failed(Exception):
    """A command that should work did not."""


@dataclass
class Operator:
    """Runs `policyc` with pins and state in `folder`; in the machine's namespaces if there is a network."""

    folder: Path
    machine: Namespace | None = None

    def policyc(self, *arguments: str, given: str | None = None, codes: tuple[int, ...] = (0,)) -> str:
        """The output. Raises `Failed` with what was said where the exit code is none of `codes`."""
        command = [sys.executable, "-m", "policyc", *arguments]
        places = {"POLICYC_BPFFS": str(self.folder / "bpf"), "POLICYC_STATE": str(self.folder / "state")}
        done = subprocess.run(
            self.machine.command(*command) if self.machine else command,
            env={**os.environ, **places, "PYTHONPATH": str(HERE.parent), "NO_COLOR": "1"},
            input=given,
            capture_output=True,
            text=True,
            timeout=30 * SLOWER,
        )
        if done.returncode not in codes:
            raise Failed(f"policyc {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr.strip()}")
        return done.stdout

    def judge(self, tried: list[Attempt], endpoints: Path) -> None:
        """Asks the reference evaluator what the policy says."""
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
    built = operator.folder / "starwars.o"
    began = time.monotonic()
    operator.policyc("compile", str(POLICY), "-o", str(built))
    took = time.monotonic() - began
    facts = json.loads(operator.policyc("inspect", str(built), "--format", "json"))
    rules = len(facts["manifest"]["rules"])
    say("compiled", f"{POLICY.name}: {rules} rules, {built.stat().st_size >> 10} KiB, every hook, in {took:.1f} s")
    say("tested", operator.policyc("test", str(POLICY)).strip())
    return built


def disguised(folder: Path) -> Path:
    """The endpoints file with the falcon passing for a tie fighter. JSON is YAML too."""
    import yaml

    document = yaml.safe_load(ENDPOINTS.read_text())
    document["endpoints"].append({"name": "falcon", "addresses": [_address("falcon", 4)], "labels": DISGUISE})
    path = folder / "disguised.yaml"
    path.write_text(json.dumps(document))
    return path


# --- with the kernel --------------------------------------------------------------------------------------------------


def not_installed() -> str | None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def why_not(operator: Operator) -> str | None:
    """Why the kernel cannot enforce here, or None."""
    missing = not_installed()
    if missing is not None:
        return missing
    answer = json.loads(operator.policyc("doctor", "--format", "json", codes=(0, 3)))
    lacking = [f for f in answer["findings"] if f["needed"] and f["answer"] == "not there"]
    if not lacking:
        return None
    cause = next((f for f in lacking if f["subject"] in ("libbpf", "bpf()")), lacking[0])
    return ": ".join(filter(None, (cause["subject"], cause["detail"], cause["help"])))


def build(network: Network, folder: Path) -> str:
    """Guests, and a server on the Death Star; returns what it is."""
    for name, addresses in HOMES.items():
        network.guest(name, addresses)
    network.settle()
    star = network.guests["deathstar"]
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if nginx is not None:
        config = folder / "nginx.conf"
        config.write_text(nginx_config(folder))
        star.start(nginx, "-c", str(config), "-e", str(folder / "error.log"), stderr=subprocess.DEVNULL)
    else:
        for port in DOCKS:
            server = [sys.executable, "-m", "http.server", str(port), "--bind", "::", "--directory", str(HERE)]
            star.start(*server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    star.wait_for_listeners(DOCKS)
    return "nginx" if nginx else "Python's http.server"


def nginx_config(folder: Path) -> str:
    listen = " ".join(f"listen {port}; listen [::]:{port};" for port in DOCKS)
    paths = " ".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return (
        f"daemon off; master_process off; pid {folder}/nginx.pid; events {{}}\n"
        f"http {{ access_log off; {paths} server {{ {listen} return 200 'welcome aboard'; }} }}\n"
    )


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


def scene(network: Network, operator: Operator, tried: list[Attempt], endpoints: Path) -> list[str]:
    operator.judge(tried, endpoints)
    go(network, tried)
    match_events(tried, operator.events())
    show(tried)
    return differences(tried)


def with_the_kernel(operator: Operator, network: Network, built: Path) -> list[str]:
    """Returns the differences between the policy and what happened."""
    server = build(network, operator.folder)
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
    finally:
        unloaded = operator.policyc("unload", "empire")
    print()
    say("unloaded", "; ".join(line.strip() for line in unloaded.splitlines()))
    return found


# --- with the kernel of an emulated machine ------------------------------------------------------------------------------


def in_emulated_machine(built: Path, why: str) -> int:
    """The rest of the demo in there; returns its exit code. Raises `archive.Unavailable`."""
    if why.startswith("libbpf: ") or not_installed() is not None:
        raise archive.Unavailable("it would have this machine's files, and lack the same")
    architecture = archive.native()
    guest.emulator(architecture)
    kernel = archive.kernel(architecture)
    say("engine", f"Linux {kernel.release} in a machine that QEMU emulates, because this one's kernel cannot be used:")
    say("", why)
    say("", "what follows happens in there, as root, with this machine's files; it takes a minute or more")
    signal.alarm(EMULATION_LIMIT)
    inside = {EMULATED: str(built), "PYTHONUNBUFFERED": "1"}
    try:
        return guest.run(kernel, [sys.executable, str(Path(__file__).absolute())], environment=inside)
    except guest.Died as error:
        raise Failed(f"the emulated machine: {error}") from None


# --- without it ---------------------------------------------------------------------------------------------------------


def without_the_kernel(operator: Operator, built: Path, why: str) -> list[str]:
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


def run(folder: Path) -> int:
    operator = Operator(folder)
    (folder / "bpf").mkdir()
    if EMULATED in os.environ:
        built = Path(os.environ[EMULATED])
    else:
        print(f"{style('policyc demo', 1)}: {POLICY.relative_to(HERE.parent)}, against real clients\n", flush=True)
        built = compile_and_test(operator)
    why = None if EMULATED in os.environ else why_not(operator)
    found: list[str] = []
    if why is None:
        try:
            with Network() as network:
                found = with_the_kernel(Operator(folder, network.machine), network, built)
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
