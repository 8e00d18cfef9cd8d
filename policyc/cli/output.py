"""What commands write: JSON documents, diagnostics, and text from files made harmless for a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import click

from policyc.cli.session import current
from policyc.diagnostics import Diagnostic

FORMATS = click.Choice(["text", "json"])


def _remember(_context: click.Context, _option: click.Parameter, value: str) -> str:
    current().json = value == "json"
    return value


format_option = click.option(
    "--format",
    "format_",
    type=FORMATS,
    default="text",
    show_default=True,
    is_eager=True,
    callback=_remember,
    help="Form of the output.",
)


def document(name: str, **fields: Any) -> None:
    """Writes one JSON document `{"format": NAME, "version": 1, …}` to standard output, in ASCII."""
    click.echo(json.dumps({"format": name, "version": 1} | fields, indent=2))


def plain(text: str) -> str:
    """`text` with control characters, line ends and bidirectional marks escaped, so that it cannot move a cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def counted(number: int, noun: str) -> str:
    """`1 test`, `2 tests`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shown(root: str | None) -> Callable[[str], str]:
    """Names of files below `root` as one can open them from here: relative where they are below this folder."""

    def name_from_here(name: str) -> str:
        path = os.path.join(root, name) if root is not None else name
        try:
            relative = os.path.relpath(path) if root is not None else name
        except OSError:  # this folder is gone
            return path
        return path if relative.startswith("..") else relative

    return name_from_here


def diagnostics(
    found: Sequence[Diagnostic], sources: Mapping[str, str], root: str | None = None, stream: IO[str] | None = None
) -> None:
    """Writes findings as text, to standard error where no stream is given. `root` as in `PolicyError`."""
    from policyc.render import render

    stream = stream or sys.stderr
    if found:
        text = render(found, sources, current().colors(stream), shown(root))
        stream.write(text.rstrip("\n") + "\n")
        stream.flush()
