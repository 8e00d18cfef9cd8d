"""Differential cases that are drawn and compiled on one machine and played on the kernel of another.

A folder has the cases (`scenario.write`) and beside them the objects they need, one a policy and structure, so that each
kernel judges the same packets with the same objects. Playing needs neither LLVM nor this machine's architecture:
`replay.py --prepare FIRST:END:PACKETS FOLDER` fills one from seeds, `replay.py FOLDER` plays it on the running kernel and
prints a line of JSON."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "kernel"))

import scenario
from packets_differential import Loads, compile_text, play
from place import private_place

from policyc.artifact import reader
from policyc.runtime.programs import is_jited

BATCH = 16  # packets; few, because a batch must end within a unit of idle time, and emulated machines are slow


def _object(folder: Path, text: str, structure: str) -> Path:
    return folder / f"{hashlib.sha256(f'{structure} {text}'.encode()).hexdigest()[:16]}.o"


def prepare(folder: Path, seeds: Iterable[int], cases: int, packets: int) -> None:
    """`cases` cases of at least `packets` packets on the ground of each seed, and every object that they need."""
    for seed in seeds:
        on = scenario.ground(seed)
        for text in on.policies:
            _object(folder, text, on.structure).write_bytes(compile_text(text, on.structure).object)
        for part in range(cases):
            (folder / f"{seed}-{part}.case").write_text(scenario.write(scenario.draw(on, seed, part, packets), []))


def replay(folder: Path) -> dict[str, object]:
    """Plays the cases of a folder: what differed, how many packets were judged, what is not JIT-compiled. Needs root and bpf()."""
    began = time.monotonic()
    differences, packets, interpreted, answers = [], 0, set[str](), Counter[tuple[str, str]]()
    by_ground: dict[tuple[tuple[str, ...], str], list[Path]] = {}
    for path in sorted(folder.glob("*.case")):
        case = scenario.read(path.read_text())
        by_ground.setdefault((case.policies, case.structure), []).append(path)
    with private_place() as here:
        for (policies, structure), paths in by_ground.items():
            with Loads(
                policies, structure, lambda text, how: reader.read(_object(folder, text, how).read_bytes())
            ) as on:
                interpreted |= {
                    hook.name for load in on.loads for hook, fd in load.programs.items() if not is_jited(fd)
                }
                for path in paths:
                    played = play(scenario.read(path.read_text()), here, on, BATCH)
                    differences += [f"{path.name}: {one}" for one in played.differences]
                    packets += played.packets
                    answers += played.answers
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "objects": len(list(folder.glob("*.o"))),
        "cases": sum(map(len, by_ground.values())),
        "packets": packets,
        "reasons": sorted({reason for _, reason in answers}),
        "interpreted": sorted(interpreted),
        "differences": differences,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    if sys.argv[1] == "--prepare":
        first, end, packets = map(int, sys.argv[2].split(":"))
        prepare(Path(sys.argv[3]), range(first, end), 1, packets)
        return 0
    result = replay(Path(sys.argv[1]))
    print(json.dumps(result))
    return 1 if result["differences"] or result["interpreted"] else 0


if __name__ == "__main__":
    sys.exit(main())
