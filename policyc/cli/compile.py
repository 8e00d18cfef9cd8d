"""`policyc compile`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import policyc
from policyc.artifact.reader import Artifact, read
from policyc.artifact.writer import source_digest
from policyc.cli import files
from policyc.cli.output import diagnostics, document, format_option, plain
from policyc.cli.progress import Progress
from policyc.driver import STAGES, Checked, Stage, check_files, emit


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(readable=False))
@click.option(
    "-o", "--output", type=click.Path(readable=False, path_type=Path), help="Where to write; `-` is standard output."
)
@click.option(
    "--root", type=click.Path(readable=False), help="The folder below which files are read [default: the first file's]."
)
@click.option("--emit", "stage", type=click.Choice(STAGES), default="obj", help="Stop at a stage and write that.")
@click.option(
    "--stateless",
    is_flag=True,
    help="Keep no connections: every packet is judged by itself, replies like all else (docs/language.md).",
)
@click.option("--print-between-passes", is_flag=True, help="Print the IR after each pass to standard error.")
@click.option("--time-passes", is_flag=True, help="Print how long each step took to standard error.")
@click.option(
    "--check",
    "artifact",
    metavar="X.o",
    type=click.Path(readable=False),
    help="Only say whether X.o is current (exit code 0 or 1).",
)
@format_option
def command(
    paths: tuple[str, ...],
    output: Path | None,
    root: str | None,
    stage: Stage,
    stateless: bool,
    print_between_passes: bool,
    time_passes: bool,
    artifact: str | None,
    format_: str,
) -> int:
    """Compile policy files into one object."""
    if artifact is not None and (output is not None or stage != "obj"):
        raise click.UsageError("--check goes with neither --output nor --emit.")
    if artifact is None and output is None and stage == "obj":
        raise click.UsageError("Missing option '-o' / '--output'.")
    old = None if artifact is None else read(artifact)
    with _Steps(print_between_passes, time_passes) as steps:
        checked = check_files(paths, root, steps.observe)
        steps.clear()
        diagnostics(checked.warnings, checked.sources, checked.root)
        data = emit(checked, stage, steps.observe, stateless)
    if old is not None:
        reason = _difference(old, data, checked, stateless)
        if format_ == "json":
            document("policyc-compile-check", artifact=old.name, current=reason is None, reason=reason)
        else:
            click.echo(plain(f"{old.name} is {'current' if reason is None else f'not current: {reason}'}"))
        return 0 if reason is None else 1
    target = output or Path("-")
    files.write(target, data)
    if format_ == "json" and target != Path("-"):
        document("policyc-compile", output=str(target), stage=stage, size=len(data))
    return 0


class _Steps(Progress):
    """The observer of a compilation: progress for who watches, IR and times for who asks."""

    def __init__(self, print_modules: bool, times: bool) -> None:
        super().__init__()
        self.print_modules = print_modules
        self.times: list[tuple[str, float]] | None = [] if times else None
        self.step("reading")

    def observe(self, name: str, module: Any, seconds: float) -> None:
        if self.print_modules and module is not None:
            from policyc.ir.text import print_module

            self.clear()
            sys.stderr.write(f"; after {name}\n{print_module(module).rstrip()}\n\n")
        if self.times is not None:
            self.times.append((name, seconds))
        self.step(f"{name} done, going on")

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self.times is None:
            return
        rows = [*self.times, ("total", sum(seconds for _, seconds in self.times))]
        width = max(len(name) for name, _ in rows)
        for name, seconds in rows:
            sys.stderr.write(f"{name.ljust(width)}  {seconds * 1000:10.1f} ms\n")


def _difference(old: Artifact, data: bytes, checked: Checked, stateless: bool) -> str | None:
    """Why an artifact is not what the sources compile to now; None where it is."""
    if old.object == data:
        return None
    manifest = old.manifest
    if manifest.source_digest != source_digest(checked.policy.files):
        return f"other sources: {', '.join(_changed(old, checked)) or 'their order'}"
    if manifest.stateless != stateless:
        return f"compiled {'with' if manifest.stateless else 'without'} --stateless"
    if manifest.compiler != policyc.__version__:
        return f"compiled by policyc {manifest.compiler}, this is {policyc.__version__}"
    return "compiled by another build of policyc or llvmlite"


def _changed(old: Artifact, checked: Checked) -> list[str]:
    """Names of the sources that are new, gone or different."""
    return sorted({name for name, _ in set(old.manifest.source_files) ^ set(checked.policy.files)})
