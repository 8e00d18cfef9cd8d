"""The part of `make demo` in which a tie fighter asks the Death Star by HTTP: what the policy says of each request, what curl gets, and the
monitor's line for it."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operator_commands import Monitor, Operator
from private_network import Namespace
from screen import DIM, GREEN, RED, heading, style

POLICY = Path(__file__).parent / "http.pol"
HELLO = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4"  # how TLS begins: a handshake record with a ClientHello
CURL_LIMIT = 5  # seconds
TITLE = "What a tie fighter may ask the Death Star: http.pol, judged in the kernel, with no proxy between"


@dataclass
class Request:
    """`says`: what the policy says, a line of `policyc eval`. `status`: what curl got, 0 without an answer."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    scheme: str = "http"
    says: dict[str, Any] = field(default_factory=dict)
    status: int | None = None

    @property
    def judged(self) -> dict[str, Any]:
        judged: dict[str, Any] = self.says["requests"][0]
        return judged

    @property
    def allowed(self) -> bool:
        return bool(self.judged["verdict"] == "allow")

    @property
    def text(self) -> str:
        what = f"{self.method} {self.path}" if self.scheme == "http" else f"https, {self.method} {self.path}"
        return ", ".join([what, *(f"{name}: {value}" for name, value in self.headers)])

    def flow(self, source: str, target: str) -> dict[str, Any]:
        """As `policyc eval` reads it."""
        if self.scheme == "https":
            sent: dict[str, Any] = {"stream": base64.b64encode(HELLO).decode()}
        else:
            sent = {"method": self.method, "path": self.path, "host": target, "headers": self.headers}
        return {"src": source, "dst": target, "proto": "tcp", "dport": 80, "http": sent}

    def client(self, target: str) -> list[str]:
        quiet = ["-sk", "-o", "/dev/null", "-m", str(CURL_LIMIT), "-w", "%{http_code}", "--path-as-is"]
        headers = [word for name, value in self.headers for word in ("-H", f"{name}: {value}")]
        return ["curl", *quiet, "-X", self.method, *headers, f"{self.scheme}://{target}:80{self.path}"]


def requests() -> list[Request]:
    return [
        Request("POST", "/v1/request-landing"),
        Request("PUT", "/v1/exhaust-port"),
        Request("PUT", "/v1/exhaust-port", (("X-Has-Force", "true"),)),
        Request("GET", "/v1", (("X-Alliance", "yes"),)),
        Request("GET", "/v1/ships/%2e%2e/exhaust-port"),
        Request("GET", "/v1", scheme="https"),
    ]


def judge(operator: Operator, asked: list[Request], endpoints: Path, source: str, target: str) -> None:
    """Asks the reference evaluator what the policy says."""
    flows = "".join(json.dumps(one.flow(source, target)) + "\n" for one in asked)
    answers = operator.policyc("eval", str(POLICY), "--endpoints", str(endpoints), given=flows)
    for one, answer in zip(asked, answers.splitlines(), strict=True):
        one.says = json.loads(answer)


def scene(
    operator: Operator, load: str, client: Namespace, endpoints: Path, ends: tuple[str, str], slower: int
) -> list[str]:
    """Sends each request in turn, with the monitor running, and returns where a client or the monitor disagrees with the policy. `endpoints` is
    what is loaded; `ends`: addresses of source and target."""
    heading(TITLE)
    asked = requests()
    judge(operator, asked, endpoints, *ends)
    found: list[str] = []
    with Monitor(operator, load, "--type", "l7") as monitor:
        for one in asked:
            done = subprocess.run(
                client.command(*one.client(ends[1])), capture_output=True, text=True, timeout=2 * CURL_LIMIT * slower
            )
            one.status = int(done.stdout or 0)
            said = list(monitor.until(" http ", CURL_LIMIT * slower))
            wrong = differences(one, said)
            found += wrong
            show(one, said, wrong)
    return found


def differences(one: Request, said: list[str]) -> list[str]:
    """`said`: the monitor's lines."""
    found = []
    # A refusal in clear text is no answer for who speaks TLS.
    expected = 200 if one.allowed else 0 if one.scheme == "https" else 403
    if one.status != expected:
        found.append(f"{one.text}: the policy says {one.judged['verdict']}, curl got {one.status}")
    verdict = "Forwarded" if one.allowed else f"Denied ({one.judged['reason']}"
    place = one.judged["rule"].rsplit("/", 1)[-1]
    if len(said) != 1 or f" {verdict}" not in said[0] or not said[0].endswith(f" {place}"):
        found.append(f"{one.text}: the policy says {verdict} by {place}, the monitor {said}")
    return found


def show(one: Request, said: list[str], wrong: list[str]) -> None:
    outcome = {0: "no answer", 200: "200"}.get(one.status or 0, f"{one.status} in the server's place")
    print(f"  {one.text:<52} {style(outcome, GREEN if one.status == 200 else RED)}", flush=True)
    for line in said:
        print(f"    {style(line, DIM)}", flush=True)
    if wrong:
        print(style("    NOT WHAT THE POLICY SAYS", RED), flush=True)


def without_the_kernel(operator: Operator, endpoints: Path, source: str, target: str) -> None:
    heading("What a tie fighter might ask the Death Star: http.pol")
    asked = requests()
    judge(operator, asked, endpoints, source, target)
    for one in asked:
        judged = one.judged
        word = style("allowed", GREEN) if one.allowed else style(f"denied ({judged['reason']})", RED)
        saw = f"  {judged['saw']}" if judged["saw"] else ""
        print(f"  {one.text:<52} {word}  {judged['ref']}  {judged['rule'].rsplit('/', 1)[-1]}{saw}", flush=True)
