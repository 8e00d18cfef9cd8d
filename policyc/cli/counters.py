"""`policyc counters`."""

from __future__ import annotations

import click

from policyc.cli.output import document, format_option, plain


@click.command()
@click.argument("name", required=False)
@click.option("--all", "all_", is_flag=True, help="Also rules that decided nothing.")
@format_option
def command(name: str | None, all_: bool, format_: str) -> int:
    """Show packets, bytes and connections by rule, then packets by reason, since the load."""
    from policyc.runtime import query

    view = query.view(name)
    rules, reasons = query.rule_counts(view), query.reason_counts(view)
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
    click.echo(f"{'packets':>10} {'bytes':>14}  reason")
    for r in reasons:
        verdict = "allowed" if r.allowed else "denied"
        click.echo(f"{r.packets:>10} {r.bytes:>14}  {r.direction.word} {verdict} {r.reason.word}")
    return 0
