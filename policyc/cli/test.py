"""`policyc test`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from policyc.cli.engines import compiled, engine_factory, engine_option
from policyc.cli.output import counted, diagnostics, document, format_option, plain
from policyc.driver import check_files
from policyc.evaluate import run_tests
from policyc.expectations import Result


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(readable=False))
@click.option(
    "--root", type=click.Path(readable=False), help="The folder below which files are read [default: the first file's]."
)
@engine_option
@format_option
def command(paths: tuple[str, ...], root: str | None, engine: str, format_: str) -> int:
    """Run the test blocks of policy files.

    Exit code 1 where an expectation does not hold.
    """
    checked = check_files(paths, root)
    diagnostics(checked.warnings, checked.sources, checked.root)
    results = run_tests(checked.policy, engine_factory(engine, lambda: compiled(checked)))
    failed = [r for r in results if not r.passed]
    if format_ == "json":
        document("policyc-test", engine=engine, passed=not failed, results=[_fields(r) for r in results])
    else:
        _report(results, failed, len(checked.policy.tests), engine)
    return 1 if failed else 0


def _fields(result: Result) -> dict[str, Any]:
    span = result.span
    return {
        "test": result.test,
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "passed": result.passed,
        "flows": result.flows,
        "message": result.message or None,
    }


def _report(results: Sequence[Result], failed: Sequence[Result], tests: int, engine: str) -> None:
    for result in failed:
        failure = click.style("failed:", fg="red", bold=True)
        click.echo(f"{plain(str(result.span))}: {failure} {plain(result.test)}: {plain(result.message)}")
    flows = sum(r.flows for r in results)
    counts = (counted(tests, "test"), counted(len(results), "expectation"), counted(flows, "flow"))
    click.echo(f"{', '.join(counts)} on the {engine} engine: {f'{len(failed)} failed' if failed else 'all hold'}")
