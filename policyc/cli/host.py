"""`policyc host`."""

from __future__ import annotations

import click

from policyc.cli.output import document, format_option


@click.group()
def command() -> None:
    """Refresh this machine's addresses in a load."""


@command.command()
@click.argument("name", required=False)
@format_option
def sync(name: str | None, format_: str) -> int:
    """Make class `host` what this machine's interfaces have now, and what the endpoints file lists."""
    from policyc.runtime.addresses import text
    from policyc.runtime.registry import open_registry

    with open_registry(name) as registry:
        came, went = registry.sync_host()
        name, total = registry.header.name, len(registry.host)
    if format_ == "json":
        document("policyc-host", load=name, added=[text(a) for a in came], removed=[text(a) for a in went], total=total)
        return 0
    for sign, changed in (("+", came), ("-", went)):
        for address in changed:
            click.echo(f"{sign} {text(address)}")
    click.echo(f"{name}: {total} addresses of this machine")
    return 0
