"""`policyc status`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from policyc.cli.output import counted, document, format_option, plain
from policyc.diagnostics import OperationError


@click.command()
@click.argument("name", required=False)
@format_option
def command(name: str | None, format_: str) -> int:
    """Show what is loaded and attached. Exit code 1 if a load does not enforce what it should."""
    from policyc.runtime.names import check_name

    found = [_status(check_name(name))] if name is not None else list(_all_loads())
    if format_ == "json":
        document("policyc-status", loads=found)
    elif not found:
        click.echo("nothing is loaded")
    else:
        for status in found:
            _show(status)
    return 0 if all(s["healthy"] for s in found) else 1


def _status(name: str) -> dict[str, Any]:
    from policyc.runtime import query

    view = query.view(name)
    points = query.attachments(view)
    state = query.state_word(view)
    return {
        "name": name,
        "state": state,
        "healthy": state in ("enforcing", "auditing") and all(p.judges for p in points),
        "load": view.header.number,
        "artifact": view.header.source,
        "source_digest": view.artifact.manifest.source_digest,
        "loaded_at": view.header.loaded_at,
        "events": view.header.events,
        "endpoints": len(view.endpoints),
        "addresses": sum(len(e.addresses) for e in view.endpoints.values()),
        "host": view.header.host,
        "jited": query.jited(view),
        "lost_events": query.lost_events(view),
        "judged_streams": query.judged_streams(view) if view.header.streams else None,
        "points": [{"point": p.point, "attached": p.present, "ahead": list(p.ahead)} for p in points],
    }


def _all_loads() -> Iterator[dict[str, Any]]:
    """One load that cannot be read does not hide the others."""
    from policyc.runtime.libbpf import PERMISSION_OR_FEATURE
    from policyc.runtime.state import names

    for name in names():
        try:
            yield _status(name)
        except OperationError as error:
            if error.exit_code == PERMISSION_OR_FEATURE:
                raise
            if name in names():  # not unloaded just now
                problem = {"problem": error.message, "help": error.help or ""}
                yield {"name": name, "state": "damaged", "healthy": False, **problem}


def _show(status: dict[str, Any]) -> None:
    if status["state"] == "damaged":
        click.echo(plain(f"{status['name']}: damaged: {status['problem']}"))
        click.echo(plain(f"  {status['help']}"))
        return
    click.echo(f"{status['name']}: {status['state']}, load {status['load']} from {plain(status['artifact'])}")
    lost = f", {status['lost_events']} lost" if status["lost_events"] else ""
    click.echo(f"  {status['endpoints']} endpoints, {status['addresses']} addresses; events: {status['events']}{lost}")
    interpreted = [name for name, jited in status["jited"].items() if not jited]
    if interpreted:
        click.echo(f"  NOT JIT-COMPILED, several times slower: {', '.join(interpreted)}")
    else:
        click.echo(f"  {len(status['jited'])} programs, JIT-compiled")
    if status["judged_streams"] is not None:
        click.echo(f"  {counted(status['judged_streams'], 'stream')} judged")
    for point in status["points"]:
        word = {True: "attached", False: "NOT ATTACHED", None: "in another network namespace"}[point["attached"]]
        click.echo(f"  {plain(point['point'])}: {word}")
        if point["ahead"]:
            click.echo(plain(f"    packets can pass by: before it stand {', '.join(point['ahead'])}"))
