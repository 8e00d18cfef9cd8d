"""What the demo prints: in colour on a terminal, unless NO_COLOR is set."""

from __future__ import annotations

import os
import sys

COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
BOLD, DIM, RED, GREEN = 1, 2, 31, 32


def style(text: str, code: int) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def say(label: str, text: str) -> None:
    print(f"{style(f'{label:<10}', BOLD)} {text}", flush=True)


def heading(text: str) -> None:
    print(f"\n{style(text, BOLD)}", flush=True)
