"""Every benchmark, and what is written about them: `python -m benchmarks [--quick] [--only PART …] [--results FOLDER]`, as root.

Each part runs in a process of its own and hands over its figures. The folder gets `results.json`, `table.md` and `growth.svg`; a full run
also brings docs/performance.md and README.md up to date (`publish.py`). Exit status 1 where a part failed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import figures, publish, python_figures
from benchmarks.figures import Figure

PARTS = ("verdict", "frames", "process", "primitives", "http")
PYTHON_PART = "python"


def run_part(name: str, quick: bool, folder: Path) -> tuple[list[Figure], bool]:
    """The figures of a part, and whether it came to its end. What it prints is seen at once."""
    out = folder / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.bench_{name}", "--out", str(out), *["--quick"] * quick]
    if name == PYTHON_PART:
        command = python_figures.command(out, quick)
    code = subprocess.run(command, check=False).returncode
    if not out.exists():
        return [], False
    return python_figures.read(out) if name == PYTHON_PART else figures.read_part(out), code == 0


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="within five minutes; the documentation stays as it is")
    options.add_argument("--only", action="append", choices=(*PARTS, PYTHON_PART), help="this part; may be repeated")
    options.add_argument("--results", type=Path, default=publish.RESULTS, help="folder for the results")
    chosen = options.parse_args()
    failed: list[str] = []
    made: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="policyc-bench-") as scratch:
        for name in chosen.only or (*PARTS, PYTHON_PART):
            begun = time.monotonic()
            print(f"== {name}", flush=True)
            found, ended = run_part(name, chosen.quick, Path(scratch))
            made += found
            if not ended:
                failed.append(name)
            print(f"== {name}: {time.monotonic() - begun:.0f} s", flush=True)
    document = figures.document(made, chosen.quick)
    publish.results(document, chosen.results)
    if not chosen.quick and not chosen.only and not failed:
        publish.documentation(document, chosen.results)
    missed = [f.name for f in document.figures if f.met is False]
    print(f"{len(made)} figures in {chosen.results}; {len(missed)} missed" + "".join(f"\n  {name}" for name in missed))
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
