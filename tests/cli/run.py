"""Runs the command in this process, as the console script would."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from policyc.cli import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def policyc(*arguments: object, stdin: bytes = b"", terminal: bool = False) -> Done:
    kind: Any = Terminal if terminal else io.TextIOWrapper
    out, err = kind(io.BytesIO(), encoding="utf-8"), kind(io.BytesIO(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = main.run([str(a) for a in arguments])
    for stream in (out, err):
        stream.flush()
    return Done(code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode())
