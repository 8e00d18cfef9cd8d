"""What each server makes of each case of the corpus, with nobody between: why the case matters, and what a later version may change.

`python -m tests.l7.survey [--write] [--table]`, as root: plays the corpus to nginx, http.server, Node and Go in a scene of its own and tells what is
new against `corpus/seen.json`; `--write` brings that up to date, `--table` prints one line a case."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.l7 import raw, servers
from tests.l7.agent import Agent
from tests.l7.corpus.all_cases import CASES
from tests.l7.corpus.case import Case
from tests.l7.place import PORT, Scene

FILE = Path(__file__).parent / "corpus" / "seen.json"
QUIET = 1.0  # seconds without a byte after which a server has said all
Found = dict[str, dict[str, Any]]


_ports = itertools.cycle(range(2000, 32000))


def plan(case: Case, address: str, port: int, source: str = "", quiet: float = QUIET) -> raw.Plan:
    """From a port that no kernel gives out and no connection of the last minutes had: servers' logs know connections by it."""
    pauses = (0.0,) if case.paced is None else (case.paced,)
    awaits = case.paced is None
    return raw.Plan(address, port, case.segments, pauses, source, next(_ports), quiet, awaits, case.finish)


def play(
    web: Agent, server: servers.Server, cases: Sequence[Case], address: str, quiet: float = QUIET
) -> list[tuple[list[servers.Seen], raw.Exchange]]:
    """What the server saw of each case, and what the client got; many cases at the same time."""
    plans = [plan(case, address, server.port, quiet=quiet) for case in cases]
    done = web.call(raw.exchanges, plans, patience=300)
    seen = server.settled()
    return [(seen.get(exchange.port, []), exchange) for exchange in done]


def brief(seen: servers.Seen) -> str:
    """`METHOD TARGET`, with the path where decoding made another of it, and the length of a body; long targets are cut."""
    words = [seen.method, seen.target if len(seen.target) < 80 else seen.target[:77] + "…"]
    if seen.path is not None and seen.path != seen.target.partition("?")[0] and len(seen.path) < 80:
        words.append(f"as {seen.path}")
    if seen.length:
        words.append(f"+{seen.length}")
    return " ".join(words)


def accepted(seen: Iterable[servers.Seen]) -> list[servers.Seen]:
    """Without what the server itself refused."""
    return [one for one in seen if one.status is None or one.status < 400]


def told(seen: Iterable[servers.Seen], exchange: raw.Exchange) -> dict[str, Any]:
    """What is kept of one case: the requests that reached a handler (repeated ones counted), the statuses sent, and whether the server closed."""
    return {
        "requests": counted([brief(one) for one in accepted(seen)]),
        "answers": counted(list(map(str, exchange.answers))),
    }


def counted(words: Sequence[str]) -> list[str]:
    """`["a", "a", "b"]` as `["a (2 times)", "b"]`."""
    found: list[list[Any]] = []
    for word in words:
        if found and found[-1][0] == word:
            found[-1][1] += 1
        else:
            found.append([word, 1])
    return [word if count == 1 else f"{word} ({count} times)" for word, count in found]


def survey(scene: Scene, names: Sequence[str] = servers.NAMES) -> Found:
    """By server and case."""
    web = scene.agent("web")
    made: Found = {}
    for number, name in enumerate(names):
        server = servers.start(name, scene, PORT + 1 + number)
        played = play(web, server, CASES, scene.address("api"))
        made[name] = {case.name: told(*result) for case, result in zip(CASES, played, strict=True)}
    return made


def read() -> tuple[dict[str, str], Found]:
    """The versions and what was found with them."""
    kept = json.loads(FILE.read_text())
    return kept["versions"], kept["servers"]


def write(found: Found) -> None:
    """A line a case."""
    blocks = []
    for name, cases in found.items():
        lines = [f"{json.dumps(case)}: {json.dumps(result, ensure_ascii=False)}" for case, result in cases.items()]
        blocks.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    versions = json.dumps({name: servers.version(name) for name in found})
    FILE.write_text(f'{{"versions": {versions},\n"servers": {{\n' + ",\n".join(blocks) + "\n}}\n")


def changes(kept: Found, found: Found) -> list[str]:
    """One line for each case of which a server makes something else than it did."""
    lines = []
    for name, cases in found.items():
        for case, result in cases.items():
            before = kept.get(name, {}).get(case)
            if before != result:
                lines.append(f"{name}: {case}: {before} → {result}")
    return lines


def surprises(case: Case, requests: Sequence[str]) -> list[str]:
    """The requests, of those a server saw, that no reading by the standard and the policy allows: what must not happen behind it."""
    left = counted([f"{method} {target}"[:90] for method, target in case.allowed])
    return [r for r in requests if not any(r.startswith(one.partition(" (")[0][:80]) for one in left)]


def table(found: Found) -> str:
    """One line a case: what it comes to under the policy, and what each server saw without."""
    names = list(found)
    lines = [f"| case | under the policy | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for case in CASES:
        outcome = ", ".join(
            counted(
                [
                    "allowed" if o.verdict == "allow" else f"{o.reason} {o.saw.words}".strip() + f", {o.answer}"
                    for o in case.expected
                ]
            )
        )
        cells = []
        for name in names:
            result = found[name][case.name]
            seen = "; ".join(result["requests"]) or "—"
            mark = "**!** " if surprises(case, result["requests"]) else ""
            cells.append(f"{mark}{seen} [{', '.join(result['answers'])}]".replace("|", "\\|"))
        lines.append(f"| {case.name} | {outcome} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--write", action="store_true", help=f"bring {FILE.name} up to date")
    options.add_argument("--table", action="store_true", help="print one line a case")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyc-survey-") as folder, Scene(Path(folder)) as scene:
        found = survey(scene)
    if chosen.table:
        print(table(found))
    for line in changes(read()[1] if FILE.exists() else {}, found):
        print(line, file=sys.stderr)
    if chosen.write:
        write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
