"""What the options before the command say, for every command: `click.get_current_context().obj`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import IO, Any, Literal, get_args

import click

ColorMode = Literal["auto", "always", "never"]
COLOR_MODES: tuple[str, ...] = get_args(ColorMode)


@dataclass
class Session:
    color: ColorMode = "auto"
    debug: bool = False
    json: bool = False  # the command was told `--format json`; errors are then documents, too

    def wants_color(self) -> bool | None:
        """True or False where the user or the environment decided, None: ask the stream. See https://no-color.org."""
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return None

    def colors(self, stream: IO[Any]) -> bool:
        """Whether what goes to `stream` has colours."""
        wanted = self.wants_color()
        return stream.isatty() if wanted is None else wanted


def current() -> Session:
    """The session of the running command; one with defaults where a command is called without the group."""
    context = click.get_current_context(silent=True)
    return context.obj if context is not None and isinstance(context.obj, Session) else Session()
