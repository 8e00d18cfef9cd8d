"""`policyc` as an operator runs it, for the examples: single commands, and a monitor that prints while things happen."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from private_network import Namespace

ROOT = Path(__file__).parents[1]


class Failed(Exception):
    """A command that should work did not."""


class Operator:
    """Runs `policyc` with pins and state in `folder`; in the machine's namespaces if there is a network. `patience`: seconds for a command."""

    def __init__(self, folder: Path, machine: Namespace | None = None, patience: float = 30) -> None:
        self.folder, self.machine, self._patience = folder, machine, patience
        (folder / "bpf").mkdir(exist_ok=True)

    def command(self, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "policyc", *arguments]
        return self.machine.command(*command) if self.machine else command

    @property
    def environment(self) -> dict[str, str]:
        places = {"POLICYC_BPFFS": str(self.folder / "bpf"), "POLICYC_STATE": str(self.folder / "state")}
        return {**os.environ, **places, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}

    def policyc(self, *arguments: str, given: str | None = None, codes: tuple[int, ...] = (0,)) -> str:
        """The output. Raises `Failed` with what was said where the exit code is none of `codes`."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=self._patience,
        )
        if done.returncode not in codes:
            raise Failed(f"policyc {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr.strip()}")
        return done.stdout

    def why_not(self, tools: Sequence[str]) -> str | None:
        """Why the kernel cannot enforce here, or None."""
        missing = not_installed(tools)
        if missing is not None:
            return missing
        answer = json.loads(self.policyc("doctor", "--format", "json", codes=(0, 3)))
        lacking = [f for f in answer["findings"] if f["needed"] and f["answer"] == "not there"]
        if not lacking:
            return None
        cause = next((f for f in lacking if f["subject"] in ("libbpf", "bpf()")), lacking[0])
        return ": ".join(filter(None, (cause["subject"], cause["detail"], cause["help"])))


def not_installed(tools: Sequence[str]) -> str | None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Monitor:
    """`policyc monitor` with `arguments`, running as long as the `with` statement."""

    def __init__(self, operator: Operator, *arguments: str) -> None:
        self._operator, self._arguments = operator, arguments
        self._lines: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> Monitor:
        command = self._operator.command("monitor", *self._arguments)
        # Ctrl-C is for us: the monitor is ended in order.
        self._process = subprocess.Popen(
            command, env=self._operator.environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def until(self, part: str, patience: float) -> Iterator[str]:
        """Lines as they come, up to one that has `part`. Ends without it after `patience` seconds without a line."""
        while True:
            try:
                line = self._lines.get(timeout=patience)
            except queue.Empty:
                return
            yield line
            if part in line:
                return

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
