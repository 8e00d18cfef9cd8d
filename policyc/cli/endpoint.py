"""`policyc endpoint`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from policyc.cli.output import document, format_option, plain
from policyc.cli.progress import Progress
from policyc.diagnostics import OperationError

if TYPE_CHECKING:
    from policyc.runtime.state import Registered


@click.group()
def command() -> None:
    """Add, change, remove and list the endpoints of a load."""


def _names(words: Sequence[str], what: str) -> tuple[str | None, str]:
    """`[NAME] WHAT`."""
    if len(words) > 2:
        raise click.UsageError(f"expected [NAME] {what}, got {len(words)} arguments")
    return (words[0] if len(words) == 2 else None), words[-1]


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        click.echo(f"warning: {plain(warning)}", err=True)


l7_deny_option = click.option(
    "--l7-deny",
    is_flag=True,
    help="Accept an endpoint bound by interface only whose requests rules judge: nobody sees them, these connections are denied.",
)


@command.command()
@click.argument("words", nargs=-1, required=True, metavar="[NAME] ENDPOINT")
@click.option("--address", "addresses", multiple=True, help="An IPv4 or IPv6 address; may be repeated.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.")
@click.option("--interface", help="The host's end of its link, where it is then judged.")
@click.option("--cgroup", help="Its cgroup, where it is then judged.")
@l7_deny_option
@format_option
def add(
    words: tuple[str, ...],
    addresses: tuple[str, ...],
    labels: tuple[str, ...],
    interface: str | None,
    cgroup: str | None,
    l7_deny: bool,
    format_: str,
) -> int:
    """Add an endpoint, or change the one of that name into this."""
    from policyc.model import Endpoint
    from policyc.runtime.registry import open_registry

    name, endpoint_name = _names(words, "ENDPOINT")
    _check_endpoint_name(endpoint_name)
    endpoint = Endpoint(endpoint_name, _addresses(addresses), _labels(labels), cgroup, interface)
    with open_registry(name) as registry:
        registry.l7_deny = l7_deny
        outcome = registry.put(endpoint)
        identities = registry.identities(registry.get(endpoint_name))
        name, warnings = registry.header.name, registry.warnings
    if format_ == "json":
        document(
            "policyc-endpoint",
            load=name,
            endpoint=endpoint_name,
            outcome=outcome,
            identities=identities,
            warnings=warnings,
        )
        return 0
    click.echo(f"{name}: {outcome} {plain(endpoint_name)}: {plain(', '.join(identities)) or 'matches no identity'}")
    _warn(warnings)
    return 0


@command.command()
@click.argument("words", nargs=-1, required=True, metavar="[NAME] ENDPOINT")
@format_option
def remove(words: tuple[str, ...], format_: str) -> int:
    """Remove an endpoint; its addresses are nobody's then."""
    from policyc.runtime.registry import open_registry

    name, endpoint_name = _names(words, "ENDPOINT")
    with open_registry(name) as registry:
        registry.remove(endpoint_name)
        name, warnings = registry.header.name, registry.warnings
    if format_ == "json":
        document("policyc-endpoint", load=name, endpoint=endpoint_name, outcome="removed", warnings=warnings)
        return 0
    click.echo(f"{name}: removed {plain(endpoint_name)}")
    _warn(warnings)
    return 0


@command.command()
@click.argument("words", nargs=-1, required=True, metavar="[NAME] FILE")
@l7_deny_option
@format_option
def apply(words: tuple[str, ...], l7_deny: bool, format_: str) -> int:
    """Make the endpoints of a file the whole set: add, change and remove what differs."""
    from policyc.endpoints import load_or_raise
    from policyc.runtime.registry import open_registry

    name, path = _names(words, "FILE")
    file = load_or_raise(path)
    with open_registry(name) as registry, Progress() as progress:
        registry.l7_deny = l7_deny
        done = registry.apply(file.endpoints, lambda n: progress.step(f"endpoint {n + 1} of {len(file.endpoints)}"))
        registry.list_host(file.host)
        name, warnings = registry.header.name, registry.warnings
    if format_ == "json":
        document("policyc-endpoint-apply", load=name, **vars(done), warnings=warnings)
        return 0
    for sign, names in (("+", done.added), ("~", done.changed), ("-", done.removed)):
        for changed in names:
            click.echo(f"{sign} {plain(changed)}")
    click.echo(f"{name}: {len(done.added)} added, {len(done.changed)} changed, {len(done.removed)} removed")
    _warn(warnings)
    return 0


@command.command("list")
@click.argument("name", required=False)
@format_option
def list_(name: str | None, format_: str) -> int:
    """List the endpoints of a load with their labels, addresses and identities."""
    from policyc.runtime.query import identity_names, view

    found = view(name)
    names_of = identity_names(found)
    rows = [_row(e, names_of(e)) for e in sorted(found.endpoints.values(), key=lambda e: e.name)]
    if format_ == "json":
        document("policyc-endpoints", load=found.header.name, host=found.header.host, endpoints=rows)
        return 0
    for row in rows:
        labels = ", ".join(f"{k}={v}" for k, v in row["labels"].items())
        places = [f"{word} {row[word]}" for word in ("interface", "cgroup") if row[word]]
        parts = [" ".join(row["addresses"]), *places, ", ".join(row["identities"]) or "matches no identity"]
        click.echo(plain(f"{row['name']}  [{labels}]  " + "; ".join(p for p in parts if p)))
    return 0


def _row(known: Registered, identities: list[str]) -> dict[str, Any]:
    from policyc.runtime.addresses import text

    return {
        "name": known.name,
        "addresses": [text(a) for a in known.addresses],
        "labels": known.labels,
        "interface": known.interface,
        "cgroup": known.cgroup,
        "identities": identities,
    }


def _check_endpoint_name(name: str) -> None:
    if not name or not name.isprintable() or name == "host":
        raise OperationError(f"{plain(name)!r} cannot name an endpoint", "use a printable name other than `host`")


def _addresses(texts: Sequence[str]) -> Any:
    from policyc.runtime.addresses import parse

    try:
        return tuple(dict.fromkeys(parse(t) for t in texts))
    except ValueError as error:
        raise OperationError(
            f"--address: {error}", "give single IPv4 or IPv6 addresses, without prefix length"
        ) from None


def _labels(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise OperationError(f"--label {plain(text)!r} has no value", "write KEY=VALUE")
        if found.setdefault(key, value) != value:
            raise OperationError(f"label {plain(key)!r} is given twice", "an endpoint has one value for a key")
    return found
