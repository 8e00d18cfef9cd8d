"""Moments at which a command can be killed: before each system call by which it changes something. strace tells and does it.

`make test-kill` takes all of them (`POLICYC_KILL_POINTS=all`; a number: so many a case; `POLICYC_KILL_SEED` repeats a sample)."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter

from operation import ROOT, Operator

CALLS = "bpf,mount,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,sendto,sendmsg,write,ftruncate"
LINE = re.compile(r"(?P<call>\w+)\(")
MADE = re.compile(r"bpf\(BPF_(PROG_LOAD|MAP_CREATE|BTF_LOAD)")  # what these make goes with the process
POINTS = os.environ.get("POLICYC_KILL_POINTS", "2")
SEED = int(os.environ.get("POLICYC_KILL_SEED") or random.randrange(1 << 32))
KILLED = (-9, 137)
Point = tuple[str, int]  # a system call, and its count so far of that name


def traced(operator: Operator, command: list[str]) -> list[Point]:
    """Runs the command to its end; its points in order."""
    log = operator.folder / "trace"
    done = _strace(operator, ["-o", str(log), "-e", f"trace={CALLS}"], command)
    assert done.returncode == 0, done.stderr
    counts: Counter[str] = Counter()
    points = []
    for line in log.read_text(errors="replace").splitlines():
        if match := LINE.match(line):
            counts[match["call"]] += 1
            if not MADE.match(line):
                points.append((match["call"], counts[match["call"]]))
    return points


def sample(points: list[Point], case: str) -> list[Point]:
    """Those that this run takes of a case's."""
    if POINTS == "all":
        return points
    return random.Random(f"{SEED} {case}").sample(points, min(int(POINTS), len(points)))


def kill(operator: Operator, command: list[str], point: Point) -> None:
    """Runs the command and kills it there, if it comes that far."""
    call, count = point
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={count}"]
    done = _strace(operator, ["-o", "/dev/null", *inject], command)
    assert done.returncode in (0, *KILLED), done.stderr


def told(case: str, point: Point) -> str:
    """What repeats it."""
    return f"seed {SEED}, {case}: killed before call {point[1]} of {point[0]}"


def _strace(operator: Operator, options: list[str], command: list[str]) -> subprocess.CompletedProcess[str]:
    full = operator.namespace.command("strace", *options, sys.executable, "-m", "policyc", *command)
    return subprocess.run(full, env=operator.environment, capture_output=True, text=True, timeout=180, cwd=ROOT)
