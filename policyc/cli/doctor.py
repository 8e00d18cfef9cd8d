"""`policyc doctor`."""

from __future__ import annotations

import click

from policyc.cli.output import document, format_option, plain

MISSING = 3
MARKS = {"there": "ok", "not there": "MISSING", "could not tell": "?"}


@click.command()
@format_option
def command(format_: str) -> int:
    """Check what this machine needs to load programs, and say what to do. Exit code 3 if something needed is missing."""
    from policyc.runtime.features import Answer, examine

    findings = examine()
    missing = [f for f in findings if f.needed and f.answer is Answer.NOT_THERE]
    if format_ == "json":
        document(
            "policyc-doctor",
            ready=not missing,
            findings=[
                {
                    "subject": f.subject,
                    "answer": f.answer.value,
                    "detail": f.detail,
                    "needed": f.needed,
                    "help": f.help if f.answer is not Answer.THERE else "",
                }
                for f in findings
            ],
        )
        return MISSING if missing else 0
    for f in findings:
        mark = MARKS[f.answer.value] if f.needed or f.answer is not Answer.NOT_THERE else "absent"
        click.echo(plain(f"{mark:>8}  {f.subject}{f': {f.detail}' if f.detail else ''}"))
        if f.answer is not Answer.THERE and f.help:
            click.echo(f"{'':>8}    {plain(f.help)}")
    click.echo(f"{len(missing)} things are missing" if missing else "policies can be loaded here")
    return MISSING if missing else 0
