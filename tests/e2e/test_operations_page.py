"""Protects docs/operations.md: its commands run in order on a machine, and print what the page shows (numbers apart)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from operation import ROOT
from private_network import Network

pytestmark = pytest.mark.bpf

PAGE = ROOT / "docs" / "operations.md"
HOMES = {
    "deathstar": ("10.1.0.2/24", "2001:db8:1::2/64"),
    "tiefighter": ("10.2.0.2/24", "2001:db8:2::2/64"),
    "xwing": ("203.0.113.7/28", "2001:db8:bad::7/64"),
}


def sessions(text: str) -> Iterator[tuple[str, str]]:
    """Each command of the `console` blocks with the output shown beneath it."""
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)


def masked(text: str) -> str:
    return re.sub(r" +", " ", re.sub(r"\d+(\.\d+)?", "N", text))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page starts from: the policy, the endpoints file, and `policyc` and `as` on the path."""
    made = tmp_path_factory.mktemp("page")
    shutil.copy(ROOT / "examples" / "starwars.pol", made)
    shutil.copy(ROOT / "examples" / "endpoints" / "starwars.yaml", made)
    for name, text in re.findall(r"^```policy (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        (made / name).write_text(text)
    for name in ("bin", "bpf"):
        (made / name).mkdir()
    program = made / "bin" / "policyc"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m policyc "$@"\n')
    program.chmod(0o755)
    return made


def test_the_page(folder: Path) -> None:
    with Network() as network:
        for name, addresses in HOMES.items():
            network.guest(name, addresses)
        network.settle()
        enter = folder / "bin" / "as"
        cases = "".join(f'{n}) exec nsenter --net=/proc/{g.pid}/ns/net "$@";;\n' for n, g in network.guests.items())
        enter.write_text(f"#!/bin/sh\nguest=$1; shift\ncase $guest in\n{cases}esac\n")
        enter.chmod(0o755)
        network.guests["deathstar"].start(
            sys.executable,
            "-m",
            "http.server",
            "80",
            "-d",
            str(folder),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        network.guests["deathstar"].wait_for_listeners([80])
        environment = {
            **os.environ,
            "PATH": f"{folder}/bin:{os.environ['PATH']}:/usr/sbin",
            "POLICYC_BPFFS": str(folder / "bpf"),
            "POLICYC_STATE": str(folder / "state"),
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
        }
        for command, shown in sessions(PAGE.read_text()):
            done = subprocess.run(
                network.machine.command("sh", "-c", f"cd {shlex.quote(str(folder))} && {command}"),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=30,
            )
            assert masked(done.stdout) == masked(shown), f"$ {command}\n{done.stdout}"
