"""`policyc eval`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, BinaryIO

import click

from policyc.artifact.elf import MAGIC
from policyc.cli.engines import compiled, engine_factory, engine_option
from policyc.cli.output import diagnostics, plain
from policyc.cli.progress import Progress
from policyc.diagnostics import OperationError
from policyc.driver import InvalidSource, check_files
from policyc.endpoints import EndpointsFile, load
from policyc.evaluate import evaluate
from policyc.flows import LINE_LIMIT

if TYPE_CHECKING:
    from policyc.artifact.reader import Artifact
    from policyc.model import PolicySet

HEADER = {"format": "policyc-verdict", "version": 1}
PROGRESS_EVERY = 100  # lines
READ_LIMIT = LINE_LIMIT + 3  # bytes read of a line at once; of a longer one no more is kept, and that is too long


@click.command()
@click.argument("paths", metavar="FILE...|X.o", nargs=-1, required=True, type=click.Path(readable=False))
@click.option(
    "--root", type=click.Path(readable=False), help="The folder below which files are read [default: the first file's]."
)
@click.option(
    "--endpoints",
    "endpoints_path",
    metavar="E.yaml",
    type=click.Path(readable=False),
    help="Who has which address and labels.",
)
@click.option(
    "--flows",
    "flows_path",
    metavar="FLOWS.jsonl",
    default="-",
    show_default=True,
    type=click.Path(readable=False),
    help="One JSON object a line; `-` is standard input.",
)
@engine_option
def command(paths: tuple[str, ...], root: str | None, endpoints_path: str | None, flows_path: str, engine: str) -> int:
    """Judge flows by policy files or by an object alone: one JSON object a line in, one out, in the same order.

    Exit code 1 where a line was bad; the others are still judged.
    """
    policy, artifact = _subject(paths, root)
    known = _endpoints(endpoints_path)
    make = engine_factory(engine, artifact)
    bad = False
    judge = make(policy, known.endpoints, known.host)
    with closing(judge), _opened(flows_path) as lines, Progress() as progress:
        for number, answer in enumerate(evaluate(_lines(lines), judge)):
            bad = bad or "error" in answer
            if number % PROGRESS_EVERY == 0 and not sys.stdout.isatty():
                progress.step(f"{number} flows judged")
            sys.stdout.write(json.dumps(HEADER | answer) + "\n")
            if flows_path == "-":
                sys.stdout.flush()
    return 1 if bad else 0


def _subject(paths: tuple[str, ...], root: str | None) -> tuple[PolicySet, Callable[[], Artifact]]:
    """The policy, and what gives its artifact when an engine asks."""
    if not any(map(_is_object, paths)):
        checked = check_files(paths, root)
        diagnostics(checked.warnings, checked.sources, checked.root)
        return checked.policy, lambda: compiled(checked)
    if len(paths) > 1:
        raise click.UsageError("An object stands alone: it holds its whole policy.")
    from policyc.artifact.reader import read

    found = read(paths[0])
    return found.policy, lambda: found


def _is_object(path: str) -> bool:
    if path.endswith(".o"):
        return True
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def _endpoints(path: str | None) -> EndpointsFile:
    if path is None:
        return EndpointsFile()
    loaded = load(path)
    if loaded.file is None:
        raise InvalidSource(loaded.diagnostics, loaded.sources)
    diagnostics(loaded.diagnostics, loaded.sources)
    return loaded.file


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open(path, "rb"))
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "not a file name"
            raise OperationError(f"{plain(path)} cannot be read: {reason}") from None
        yield stream


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends. Raises `OperationError` where reading fails (a folder, say)."""
    try:
        while line := stream.readline(READ_LIMIT):
            rest = line
            while rest and not rest.endswith(b"\n") and len(rest) == READ_LIMIT:
                rest = stream.readline(READ_LIMIT)
            yield line.rstrip(b"\r\n")
    except OSError as error:
        raise OperationError(f"the flows cannot be read: {error.strerror}") from None
