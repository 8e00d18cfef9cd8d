"""`policyc unload`."""

from __future__ import annotations

import click

from policyc.cli.output import document, format_option, plain


@click.command()
@click.argument("name", required=False)
@format_option
def command(name: str | None, format_: str) -> int:
    """Detach a load and leave nothing behind: links, filters, pins, state."""
    from policyc.runtime.registry import sole_name
    from policyc.runtime.unload import unload

    name = sole_name(name)
    freed = unload(name)
    if format_ == "json":
        document("policyc-unload", load=name, points=freed)
        return 0
    click.echo(f"{name}: unloaded")
    for point in freed:
        click.echo(f"  {plain(point)}")
    return 0
