"""Replays the scene of Cilium's microscope: app1 may be asked for `GET /public` by app2 only, and `policyc monitor` shows each attempt.

Everything happens in network namespaces and a cgroup of its own. Where the kernel cannot be used the reference evaluator judges the same attempts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import http_server
from operator_commands import Failed, Monitor, Operator
from private_cgroup import Cgroup
from private_network import Network, Unavailable

HERE = Path(__file__).parent
POLICY = HERE / "microscope.pol"
NAME = "microscope"  # of the load
SERVICE = "app1-service"
HOMES = {"app1": "10.4.1.2", "app2": "10.4.2.2", "app3": "10.4.3.2"}
SERVER = HOMES["app1"]
ATTEMPTS = (("app2", "/public"), ("app2", "/private"), ("app3", "/public"), ("app3", "/private"))
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "ss", "curl", "ping")
PATIENCE = 3.0  # seconds until an event is shown
CONNECT_LIMIT = "0.8"  # seconds: shorter than the time after which a client tries again


def endpoints(folder: Path, cgroup: Path | None) -> Path:
    """The endpoints file. app1 is judged at its link; what is asked of it is seen in its cgroup."""
    made: list[dict[str, Any]] = [
        {"name": name, "addresses": [address], "labels": {"k8s:id": name}} for name, address in HOMES.items()
    ]
    made[0]["interface"] = "app1"
    if cgroup is not None:
        made[0]["cgroup"] = str(cgroup)
    path = folder / "endpoints.yaml"
    path.write_text(json.dumps({"version": 1, "endpoints": made}))
    return path


def asked(who: str, path: str) -> str:
    return f"\n{who}$ curl http://{SERVICE}{path}"


# --- with the kernel ------------------------------------------------------------------------------------------------------


def ask(network: Network, who: str, path: str) -> str:
    """What a client gets: a status, or that there was no answer."""
    where = ["--connect-to", f"{SERVICE}:80:{SERVER}:80"]
    limits = ["--connect-timeout", CONNECT_LIMIT, "-m", "5"]
    show = ["-s", "-o", "/dev/null", *limits, "-w", "%{http_code}"]
    command = network.guests[who].command("curl", *show, *where, f"http://{SERVICE}{path}")
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else "no answer"


def serve(network: Network, cgroup: Cgroup, folder: Path) -> None:
    _, command = http_server.command(folder, "app1", [80])
    network.guests["app1"].start(*cgroup.command(*command), stderr=subprocess.DEVNULL)
    network.guests["app1"].wait_for_listeners([80])


def with_the_kernel(folder: Path, built: Path) -> bool:
    """Whether everything was as the policy says. Raises `Unavailable`."""
    with ExitStack() as stack:
        cgroup = stack.enter_context(Cgroup("policyc-microscope"))
        network = stack.enter_context(Network())
        for name, address in HOMES.items():
            network.guest(name, [f"{address}/24"])
        network.settle()
        serve(network, cgroup, folder)
        operator = Operator(folder, network.machine)
        file = endpoints(folder, cgroup.path)
        operator.policyc("load", str(built), "--name", NAME, "--endpoints", str(file), "--events", "all")
        stack.callback(operator.policyc, "unload", NAME)
        monitor = stack.enter_context(Monitor(operator, NAME, "--to-selector", "k8s:id=app1"))
        answers = []
        for who, path in ATTEMPTS:
            print(asked(who, path), flush=True)
            answers.append(ask(network, who, path))
            # The last event of an attempt: the request, or the connection where it is denied.
            for line in monitor.until(" http " if who == "app2" else " denied ", PATIENCE):
                print(line, flush=True)
            print(f"{who}: {answers[-1]}", flush=True)
        return answers == ["200", "403", "no answer", "no answer"]


# --- without it -------------------------------------------------------------------------------------------------------------


def without_the_kernel(operator: Operator) -> bool:
    requests = [{"method": "GET", "path": path, "host": SERVICE} for _, path in ATTEMPTS]
    flows = [
        {"src": who, "dst": "app1", "proto": "tcp", "dport": 80, "http": request}
        for (who, _), request in zip(ATTEMPTS, requests, strict=True)
    ]
    file = endpoints(operator.folder, None)
    given = "".join(json.dumps(flow) + "\n" for flow in flows)
    said = operator.policyc("eval", str(POLICY), "--endpoints", str(file), given=given)
    verdicts = []
    for (who, path), text in zip(ATTEMPTS, said.splitlines(), strict=True):
        answer = json.loads(text)
        print(asked(who, path))
        print(f"([k8s:id={who}]) => ([k8s:id=app1]) {judged(answer, path)}")
        verdicts.append(answer["requests"][-1]["verdict"] if answer["requests"] else answer["verdict"])
    return verdicts == ["allow", "deny", "deny", "deny"]


def judged(answer: dict[str, Any], path: str) -> str:
    """As the monitor would have it."""
    if not answer["requests"]:
        return f"tcp/80 denied {answer['reason']}"
    request = answer["requests"][-1]
    place = f"{POLICY.name}:{request['rule'].partition(':')[2]}"
    verdict = "Forwarded" if request["verdict"] == "allow" else f"Denied ({request['reason']}) {request['answer']}"
    return f"http GET http://{SERVICE}{path} {verdict}  {place}"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="policyc-microscope-") as name:
        folder = Path(name)
        operator = Operator(folder)
        try:
            operator.policyc("test", str(POLICY))
            why = operator.why_not(TOOLS)
            if why is None:
                built = folder / "microscope.o"
                operator.policyc("compile", str(POLICY), "-o", str(built))
                try:
                    print("engine: the kernel")
                    return 0 if with_the_kernel(folder, built) else 1
                except Unavailable as error:
                    why = str(error)
            print(f"engine: the reference evaluator, because the kernel cannot be used here: {why}")
            return 0 if without_the_kernel(operator) else 1
        except (Failed, subprocess.TimeoutExpired) as error:
            print(f"the replay failed: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
