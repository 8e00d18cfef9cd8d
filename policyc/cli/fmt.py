"""`policyc fmt`."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from policyc.cli import files
from policyc.cli.output import plain
from policyc.diagnostics import OperationError, PolicyError
from policyc.driver import InvalidSource

SIZE_LIMIT = 16 << 20  # bytes


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(readable=False))
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 where a file is not formatted.")
@click.option("--diff", is_flag=True, help="Change nothing; show what would change, exit code 1 where anything would.")
def command(paths: tuple[str, ...], check: bool, diff: bool) -> int:
    """Format policy files in place; `-` formats standard input to standard output."""
    changed, broken = 0, []
    for path in paths:
        try:
            changed += _one(path, check, diff)
        except PolicyError as error:
            broken.append(error)
    if broken:
        sources = {name: text for e in broken for name, text in e.sources.items()}
        raise InvalidSource([d for error in broken for d in error.diagnostics], sources)
    return 1 if changed and (check or diff) else 0


def _one(path: str, check: bool, diff: bool) -> bool:
    """Formats a file; whether it was not formatted before. Raises `InvalidSource`, `OperationError`."""
    name = "<stdin>" if path == "-" else path
    text = _read(path)
    formatted = _formatted(text, name)
    differs = formatted != text
    if diff:
        _show(_diff(text, formatted, name))
    elif check:
        if differs:
            click.echo(f"{plain(name)}: not formatted")
    elif path == "-":
        files.write(Path("-"), formatted.encode())
    elif differs:
        files.write(Path(path), formatted.encode())
    return differs


def _formatted(text: str, name: str) -> str:
    from policyc.grammar.format import format_file

    try:
        return format_file(text, name)
    except PolicyError as error:
        raise InvalidSource(error.diagnostics, {name: text}) from None


def _read(path: str) -> str:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(SIZE_LIMIT + 1)
        else:
            if not Path(path).is_file():
                raise OperationError(f"{plain(path)} is not a regular file")
            with open(path, "rb") as file:
                data = file.read(SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a file name"
        raise OperationError(f"{plain(path)} cannot be read: {reason}") from None
    if len(data) > SIZE_LIMIT:
        raise OperationError(f"{plain(path)} is larger than {SIZE_LIMIT >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise OperationError(f"{plain(path)} is not UTF-8 text") from None


def _diff(old: str, new: str, name: str) -> Iterator[str]:
    return difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"{name} (as it is)", f"{name} (formatted)"
    )


def _show(lines: Iterator[str]) -> None:
    colors = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        click.echo(click.style(plain(line.rstrip("\n").replace("\t", "    ")), fg=colors.get(line[0])))
