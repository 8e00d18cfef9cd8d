"""`policyc counters`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from policyc.cli.output import document, format_option, plain

if TYPE_CHECKING:
    from policyc.runtime.query import EntryCount


@click.command()
@click.argument("name", required=False)
@click.option("--all", "all_", is_flag=True, help="Also rules that decided nothing.")
@format_option
def command(name: str | None, all_: bool, format_: str) -> int:
    """Show packets, bytes and connections by rule, requests by L7 entry, then packets by reason, since the load."""
    from policyc.runtime import query

    view = query.view(name)
    rules, entries, reasons = query.rule_counts(view), query.entry_counts(view), query.reason_counts(view)
    if format_ == "json":
        document(
            "policyc-counters",
            load=view.header.name,
            rules=[
                {
                    "ref": c.rule.ref,
                    "rule": str(c.rule.span),
                    "action": c.rule.action.word,
                    "packets": c.packets,
                    "bytes": c.bytes,
                    "connections": c.connections,
                }
                for c in rules
            ],
            entries=[
                {
                    "ref": c.ref,
                    "rule": str(c.entry.span),
                    "action": "deny" if c.entry.deny else "allow",
                    "requests": c.requests,
                }
                for c in entries
            ],
            reasons=[
                {
                    "direction": c.direction.word,
                    "verdict": "allow" if c.allowed else "deny",
                    "reason": c.reason.word,
                    "packets": c.packets,
                    "bytes": c.bytes,
                }
                for c in reasons
            ],
            lost_events=query.lost_events(view),
        )
        return 0
    shown = [c for c in rules if all_ or c.packets]
    width = max((len(c.rule.ref) for c in shown), default=4)
    click.echo(f"{'packets':>10} {'bytes':>14} {'connections':>11}  {'rule'.ljust(width)}  place")
    for c in shown:
        place = plain(str(c.rule.span))
        click.echo(
            f"{c.packets:>10} {c.bytes:>14} {c.connections:>11}  {plain(c.rule.ref).ljust(width)}  {place} {c.rule.action.word}"
        )
    _show_entries([c for c in entries if all_ or c.requests])
    click.echo(f"{'packets':>10} {'bytes':>14}  reason")
    for r in reasons:
        verdict = "allowed" if r.allowed else "denied"
        click.echo(f"{r.packets:>10} {r.bytes:>14}  {r.direction.word} {verdict} {r.reason.word}")
    return 0


def _show_entries(shown: Sequence[EntryCount]) -> None:
    if not shown:
        return
    width = max(len(c.ref) for c in shown)
    click.echo(f"{'requests':>10}  {'entry'.ljust(width)}  place")
    for c in shown:
        action = "deny" if c.entry.deny else "allow"
        click.echo(f"{c.requests:>10}  {plain(c.ref).ljust(width)}  {plain(str(c.entry.span))} {action}")
