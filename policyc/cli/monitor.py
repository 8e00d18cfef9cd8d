"""`policyc monitor`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from policyc.cli import request_lines
from policyc.cli.event_filter import Filter, parse_selector, path_pattern
from policyc.cli.output import format_option, plain

if TYPE_CHECKING:
    from policyc.artifact.manifest import ManifestRule
    from policyc.runtime.query import Event
    from policyc.runtime.requests import Request
    from policyc.runtime.sides import Side

POLL_MS = 200


@click.command()
@click.argument("name", required=False)
@click.option("--count", type=click.IntRange(1), help="Stop after that many events.")
@click.option("--timeout", type=click.FloatRange(0), help="Stop after that many seconds.")
@click.option(
    "--type", "kind", type=click.Choice(["l7", "l3-l4", "all"]), default="all", help="Requests, packets, or both."
)
@click.option("--from-selector", metavar="KEY=VALUE,…", help="Labels of the source: key=value, key!=value, key, !key.")
@click.option("--to-selector", metavar="KEY=VALUE,…", help="Labels of the destination.")
@click.option("--verdict", type=click.Choice(["allow", "deny"]))
@click.option("--port", type=click.IntRange(0, 65535), help="Destination port.")
@click.option("--method", "methods", multiple=True, help="HTTP method; may be repeated.")
@click.option("--path", metavar="GLOB", help="HTTP path: `*` stands for all but `/`, `**` for anything.")
@click.option("--rule", metavar="REF", help="The rule that decided, or the entry of one.")
@format_option
def command(
    name: str | None,
    count: int | None,
    timeout: float | None,
    kind: str,
    from_selector: str | None,
    to_selector: str | None,
    verdict: str | None,
    port: int | None,
    methods: tuple[str, ...],
    path: str | None,
    rule: str | None,
    format_: str,
) -> int:
    """Follow verdicts on packets and requests as they happen, one line each: who, to whom, what, the verdict, its reason, the rule and its line."""
    from policyc.runtime.query import EventReader

    wanted = Filter(
        kind,
        parse_selector(from_selector, "--from-selector") if from_selector is not None else None,
        parse_selector(to_selector, "--to-selector") if to_selector is not None else None,
        verdict,
        port,
        methods,
        path_pattern(path) if path is not None else None,
        rule,
    )
    reader = EventReader(name)
    end = time.monotonic() + timeout if timeout is not None else None
    seen = 0
    try:
        while not reader.ended():
            wait = POLL_MS if end is None else min(POLL_MS, int((end - time.monotonic()) * 1000))
            if wait < 0:
                break
            for event in reader.poll(wait):
                shown = _shown(event, wanted, format_)
                if shown is None:
                    continue
                click.echo(shown)
                seen += 1
                if seen == count:
                    return 0
            lost = reader.lost()
            if lost and format_ == "json":
                click.echo(json.dumps({"format": "policyc-lost-events", "version": 1, "lost": lost}))
            elif lost:
                click.echo(f"{lost} events were lost: they came faster than they were read", err=True)
    finally:
        reader.close()
    return 0


def _shown(event: Event | Request, wanted: Filter, format_: str) -> str | None:
    """None for what is not wanted."""
    from policyc.runtime.requests import Request

    if isinstance(event, Request):
        if not wanted.shows_request(event):
            return None
        return json.dumps(request_lines.document(event)) if format_ == "json" else plain(request_lines.line(event))
    if not wanted.shows_packet(event):
        return None
    return json.dumps(_document(event)) if format_ == "json" else plain(_line(event))


def _line(event: Event) -> str:
    verdict = "allowed" if event.allowed else "denied"
    parts = [
        f"({_who(event.source)}) => ({_who(event.destination)})",
        event.service,
        verdict,
        event.reason.word + (f" ({event.saw.words})" if event.saw.words else ""),
        event.rule.ref if event.rule else "-",
        str(event.rule.span) if event.rule else "-",
        f"{event.direction.word} {_end(event.source.address, event.source_port)}"
        f" -> {_end(event.destination.address, event.destination_port)}",
    ]
    if event.count > 1:
        parts.append(f"x{event.count}")
    if event.audit_allowed is not None:
        would = "allowed" if event.audit_allowed else "denied"
        reason = event.audit_reason.word if event.audit_reason else ""
        place = f" {event.audit_rule.ref} {event.audit_rule.span}" if event.audit_rule else ""
        parts.append(f"audit: would be {would} {reason}{place}")
    return " ".join(parts)


def _who(side: Side) -> str:
    if side.endpoint is None:
        return f"[{side.peer_class}]"
    return "[" + ",".join(f"{k}={v}" for k, v in side.labels.items()) + "]"


def _end(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _document(event: Event) -> dict[str, Any]:
    audit = None
    if event.audit_allowed is not None and event.audit_reason is not None:
        audit = {
            "verdict": "allow" if event.audit_allowed else "deny",
            "reason": event.audit_reason.word,
            **_rule(event.audit_rule),
        }
    return {
        "format": "policyc-event",
        "version": 1,
        "type": "l3-l4",
        "time_ns": event.time_ns,
        "direction": event.direction.word,
        "verdict": "allow" if event.allowed else "deny",
        "reason": event.reason.word,
        "saw": event.saw.words or None,
        **_rule(event.rule),
        "src": request_lines.side(event.source, event.source_port),
        "dst": request_lines.side(event.destination, event.destination_port),
        "proto": event.protocol,
        "icmp_type": event.icmp[0] if event.icmp else None,
        "icmp_code": event.icmp[1] if event.icmp else None,
        "count": event.count,
        "ifindex": event.ifindex,
        "length": event.length,
        "audit": audit,
    }


def _rule(rule: ManifestRule | None) -> dict[str, str | None]:
    return {"ref": rule.ref if rule else None, "rule": str(rule.span) if rule else None}
