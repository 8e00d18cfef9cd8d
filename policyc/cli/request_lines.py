"""A request as `monitor` shows it: a line, and a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyc.artifact.layout import Reason

if TYPE_CHECKING:
    from policyc.runtime.requests import Decision, Request
    from policyc.runtime.sides import Side


def line(request: Request) -> str:
    """`([app=web]) => ([app=api]) http GET http://api/items Forwarded  shop.pol:12:3`."""
    head = f"({_who(request.source)}) => ({_who(request.destination)}) http {str(request.method) or '-'} {request.url}"
    parts = [head, _verdict(request.decision, request), request.answer.word or ""]
    text = " ".join(p for p in parts if p) + f"  {request.decision.span or '-'}"
    if request.audit is not None:
        text += f"  audit: would be {_verdict(request.audit, request)} {request.audit.span or '-'}"
    return text


def _verdict(decision: Decision, request: Request) -> str:
    if decision.allowed:
        return "Forwarded"
    saw = f": {request.saw.words}" if decision.reason is Reason.L7_MALFORMED and request.saw.words else ""
    return f"Denied ({decision.reason.word}{saw})"


def _who(side: Side) -> str:
    """Labels; of an endpoint without any its name; of what is no endpoint `host`, or its address."""
    if side.endpoint is None:
        return f"[{'host' if side.peer_class == 'host' else side.address}]"
    return "[" + (",".join(f"{k}={v}" for k, v in side.labels.items()) or side.endpoint) + "]"


def document(request: Request) -> dict[str, Any]:
    """Text from the wire stands escaped here, too."""
    return {
        "format": "policyc-event",
        "version": 1,
        "type": "l7",
        "protocol": "http",
        "time_ns": request.time_ns,
        "direction": request.direction.word,
        "hook": request.hook.name.lower().replace("_", "-"),
        **_decision(request.decision),
        "src": side(request.source, request.source_port),
        "dst": side(request.destination, request.destination_port),
        "method": request.method.text or None,
        "host": request.host.text or None,
        "path": request.path.text or None,
        "truncated": {
            "method": request.method.truncated,
            "host": request.host.truncated,
            "path": request.path.truncated,
        },
        "minor": request.minor,
        "answer": request.answer.word,
        "saw": request.saw.words or None,
        "audit": _decision(request.audit) if request.audit is not None else None,
    }


def _decision(decision: Decision) -> dict[str, str | None]:
    """`ref` and `rule` (file:line:column) are of what decided, an entry if one did; `rule_ref` is of its rule."""
    return {
        "verdict": "allow" if decision.allowed else "deny",
        "reason": decision.reason.word,
        "ref": decision.ref,
        "rule": str(decision.span) if decision.span is not None else None,
        "rule_ref": decision.rule.ref if decision.rule is not None else None,
        "entry": decision.entry_ref,
    }


def side(end: Side, port: int | None) -> dict[str, Any]:
    """One end of a packet or request."""
    return {
        "address": end.address,
        "port": port,
        "class": end.peer_class,
        "endpoint": end.endpoint,
        "labels": end.labels,
    }
