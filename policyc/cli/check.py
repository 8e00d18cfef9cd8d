"""`policyc check`."""

from __future__ import annotations

import sys

import click

from policyc import frontend
from policyc.cli.output import diagnostics, format_option


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(readable=False))
@click.option(
    "--root", type=click.Path(readable=False), help="The folder below which files are read [default: the first file's]."
)
@format_option
def command(paths: tuple[str, ...], root: str | None, format_: str) -> int:
    """Check policy files and report findings.

    Exit code 0: none; 1: warnings only; 2: errors.
    """
    result = frontend.load(paths, root)
    if format_ == "json":
        from policyc.render import render_json

        click.echo(render_json(result.diagnostics), nl=False)
    else:
        diagnostics(result.diagnostics, result.sources, result.root, sys.stdout)
    if result.policy is None:
        return 2
    return 1 if result.diagnostics else 0
