"""The kernels that policies are to be loaded on, each with the same objects and the same packets: `make kernels`.

The running kernel where bpf() is permitted, Debian's kernels of this machine's architecture and one of the other
architecture, both emulated. On Debian's kernels of this architecture, too: the probes, and the ways around the judge of streams. What cannot be had is told and counts as not run. With `--instead` only what stands in for
the kernel's tests where bpf() is not permitted: one emulated kernel of this machine's architecture."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "kernels"))

import archive
import guest
from conftest import missing_permission

ROOT = Path(__file__).parents[2]
REPLAY, STREAMS = (ROOT / "tests" / "kernels" / name for name in ("replay.py", "streams.py"))
# What of the test suite is run in an emulated machine, the first of them also instead of the kernel's tests: each test that
# compiles takes five to ten seconds there, and all tests would take hours.
PROBES = ("tests/platform/test_maps.py", "tests/platform/test_programs.py")
# Ways around the judge of streams: what stops them is the kernel's as much as ours. Their policies are compiled here.
WAYS = ("tests/l7/test_evasion.py",)
PARTS = ("packets", "streams", "probes", "evasions")
FIRST_SEED, TIME_LIMIT = 2000, 1800  # seconds a guest
OTHER = {"amd64": "arm64", "arm64": "amd64"}

Outcome = tuple[int, str]  # exit code, output


class Wrong(Exception):
    """A kernel judges, or fails, as it should not."""


# --- where ------------------------------------------------------------------------------------------------------------


def here(command: Sequence[str]) -> Outcome:
    reason = missing_permission()
    if reason is not None:
        raise archive.Unavailable(reason)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT)
    return done.returncode, done.stdout + done.stderr


def emulated(kernel: archive.Kernel, command: Sequence[str], root: Path = guest.HERE, **more: str) -> Outcome:
    """`more`: variables of the environment."""
    output = io.BytesIO()
    inside = (guest.FILES / ROOT.relative_to("/")) if root != guest.HERE else ROOT
    environment = {"POLICYC_REQUIRE_BPF": "1", "PYTHONPATH": str(inside), **more}
    if root != guest.HERE:
        # Its Python shares what is pure Python with this one.
        environment["PYTHONPATH"] += f":{guest.FILES}{sysconfig.get_path('purelib')}"
    try:
        code = guest.run(
            kernel,
            command,
            root=root,
            folder=inside,
            environment=environment,
            time_limit=TIME_LIMIT,
            output=output,
        )
    except guest.Died as error:
        raise Wrong(f"{error}\n{output.getvalue().decode(errors='replace')}") from None
    return code, output.getvalue().decode(errors="replace")


def known(architecture: str, series: str | None) -> archive.Kernel:
    guest.emulator(architecture)
    return archive.kernel(architecture, series)


# --- what -------------------------------------------------------------------------------------------------------------


def replayed(outcome: Outcome) -> str:
    """What `replay.py` found, in words. Raises `Wrong`."""
    code, output = outcome
    lines = [line for line in output.splitlines() if line.startswith('{"kernel"')]
    if not lines:
        raise Wrong(f"exit code {code}, no result:\n{output[-4000:]}")
    found = json.loads(lines[-1])
    if found["differences"]:
        raise Wrong("\n".join(found["differences"]))
    if found["interpreted"]:
        raise Wrong(f"not JIT-compiled: {', '.join(found['interpreted'])}")
    if found["packets"] == 0 or code != 0:
        raise Wrong(f"exit code {code}, {found['packets']} packets:\n{output[-4000:]}")
    return (
        f"Linux {found['kernel']} {found['machine']}: {found['objects']} objects load and are JIT-compiled, "
        f"{found['packets']} packets judged as the reference judges them"
    )


def streamed(outcome: Outcome) -> str:
    """What `streams.py` found, in words. Raises `Wrong`."""
    code, output = outcome
    lines = [line for line in output.splitlines() if line.startswith('{"kernel"')]
    if not lines:
        raise Wrong(f"exit code {code}, no result:\n{output[-4000:]}")
    found = json.loads(lines[-1])
    if found["differences"]:
        raise Wrong("\n".join(found["differences"]))
    if found["streams"] == 0 or code != 0:
        raise Wrong(f"exit code {code}, {found['streams']} streams:\n{output[-4000:]}")
    return (
        f"Linux {found['kernel']} {found['machine']}: {found['streams']} HTTP streams on sockets judged and answered "
        f"as the reference judges them"
    )


def tested(files: Sequence[str], outcome: Outcome) -> str:
    """What pytest's last line says. Raises `Wrong`."""
    code, output = outcome
    if code != 0 or not output.strip():
        raise Wrong(f"exit code {code}:\n{output[-6000:]}")
    return f"{', '.join(files)}: {output.strip().splitlines()[-1].strip('= ')}"


def pytest(*words: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]


def evaded(folder: Path, series: str | None) -> str:
    """What `WAYS` found, in words. Raises `Wrong`. They wait more than they work: two processes share them."""
    spread = ("-p", "no:benchmark", "-n", "2", "--dist", "loadgroup")
    kernel = known(archive.native(), series)
    return tested(WAYS, emulated(kernel, pytest("-rs", *spread, *WAYS), POLICYC_TEST_OBJECTS=str(folder)))


# --- the matrix -------------------------------------------------------------------------------------------------------


class Report:
    """Prints each result as it comes, and remembers whether all was right."""

    def __init__(self) -> None:
        self.wrong = self.ran = 0
        self._began = time.monotonic()

    def run(self, name: str, *steps: Callable[[], str]) -> None:
        """Steps in order, up to the first that is wrong."""
        for step in steps:
            began = time.monotonic()
            try:
                words = step()
            except archive.Unavailable as error:
                print(f"NOT RUN  {name}: {error}", flush=True)
                return
            except Wrong as error:
                self.wrong += 1
                print(f"WRONG    {name}: {error}", flush=True)
                return
            self.ran += 1
            print(f"ok       {name}: {words} ({time.monotonic() - began:.0f} s)", flush=True)


def played_here(script: Path, folder: Path) -> Outcome:
    return here([sys.executable, str(script), str(folder)])


def played_in(script: Path, folder: Path, architecture: str, series: str | None) -> Outcome:
    kernel = known(architecture, series)
    if architecture == archive.native():
        return emulated(kernel, [sys.executable, str(script), str(folder)])
    # A machine of another architecture cannot run this one's Python.
    root = archive.userland(architecture)
    return emulated(kernel, ["python3", f"{guest.FILES}{script}", f"{guest.FILES}{folder}"], root)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--grounds", type=int, default=6, help="how many policies (default 6)")
    parser.add_argument("--packets", type=int, default=900, help="packets a policy, at least (default 900)")
    parser.add_argument("--series", action="append", help="only these kernels, of this machine's architecture")
    parser.add_argument(
        "--instead", action="store_true", help="one emulated kernel, and only where bpf() is not permitted"
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="only these parts")
    given = parser.parse_args()
    parts = given.only or (PARTS[:3] if given.instead else PARTS)
    if given.instead and missing_permission() is None:
        return 0
    try:
        native = archive.native()
    except archive.Unavailable as error:
        print(f"NOT RUN: {error}")
        return 0 if given.instead else 1
    report = Report()
    probes = PROBES[:1] if given.instead else PROBES
    with tempfile.TemporaryDirectory(prefix="policyc-kernels-") as made:
        packets, streams, evasions = (Path(made, name) for name in ("packets", "streams", "evasions"))
        print(f"compiling {given.grounds} policies and drawing their packets, and policies with L7 rules", flush=True)
        if "packets" in parts:
            packets.mkdir()
            seeds = f"{FIRST_SEED}:{FIRST_SEED + given.grounds}:{given.packets}"
            subprocess.run([sys.executable, str(REPLAY), "--prepare", seeds, str(packets)], cwd=ROOT, check=True)
        if "streams" in parts:
            subprocess.run([sys.executable, str(STREAMS), "--prepare", str(streams)], cwd=ROOT, check=True)
        if "evasions" in parts:
            prepare = [sys.executable, "-m", "tests.kernels.evasions", str(evasions)]
            subprocess.run(prepare, cwd=ROOT, check=True)
        if given.instead:
            print(
                f"bpf() is not permitted here ({missing_permission()}): kernel tests run in an emulated machine",
                flush=True,
            )
        elif not given.series:
            steps = {
                "packets": lambda: replayed(played_here(REPLAY, packets)),
                "streams": lambda: streamed(played_here(STREAMS, streams)),
            }
            report.run("running kernel", *(step for part, step in steps.items() if part in parts))
        for series in [None] if given.instead else given.series or archive.SERIES[::-1]:
            steps = {
                "packets": lambda series=series: replayed(played_in(REPLAY, packets, native, series)),  # type: ignore[misc]
                "streams": lambda series=series: streamed(played_in(STREAMS, streams, native, series)),  # type: ignore[misc]
                "probes": lambda series=series: tested(probes, emulated(known(native, series), pytest(*probes))),  # type: ignore[misc]
                "evasions": lambda series=series: evaded(evasions, series),  # type: ignore[misc]
            }
            name = f"Debian {series or 'kernel'}, emulated"
            report.run(name, *(step for part, step in steps.items() if part in parts))
        if not given.instead and not given.series:
            other = OTHER[native]
            steps = {
                "packets": lambda: replayed(played_in(REPLAY, packets, other, None)),
                "streams": lambda: streamed(played_in(STREAMS, streams, other, None)),
            }
            report.run(f"Debian {other}, emulated", *(step for part, step in steps.items() if part in parts))
    if report.ran == 0 and not report.wrong:
        print("NO KERNEL COULD BE HAD: nothing was tried")
        return 0 if given.instead else 1
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
