"""What the stream programs report of a request, as an engine's answer about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from policyc.answers import Outcome, RequestAnswer, shown_before, shown_host, shown_method, shown_path
from policyc.artifact.layout import NO_RULE, NOT_DIFFERENT, Reason
from policyc.artifact.manifest import Manifest
from policyc.artifact.stream_layout import HOST_BYTES, NO_ENTRY, Saw
from policyc.model import HttpEntry, PolicySet, Rule
from policyc.runtime import requests

MALFORMED = Reason.L7_MALFORMED.word


class Reports:
    """Reads the reports of one artifact's programs."""

    def __init__(self, manifest: Manifest, policy: PolicySet) -> None:
        by_ref = {rule.ref: rule for rule in policy.rules}
        self._rules = [by_ref[rule.ref] for rule in manifest.rules]
        self._entries: list[tuple[Rule, HttpEntry]] = []
        for entry in manifest.entries:
            block = self._rules[entry.rank].http
            assert block is not None
            self._entries.append((self._rules[entry.rank], block.entries[entry.number - 1]))

    def request(self, record: bytes, connection: Sequence[Rule] = ()) -> RequestAnswer:
        """`requests.is_request(record)` holds. `connection`: the rules that allow the connection, of which the first stands where none decided."""
        f = requests.fields(record)
        first = connection[0] if connection else None
        audit = None
        if f["audit_verdict"] != NOT_DIFFERENT:
            audit = self._outcome(f, "audit_", first)
        method, path = f["method"][: f["method_length"]], f["path"][: f["path_length"]]
        host, length = f["host"][: f["host_length"]], f["host_length"]
        if length <= HOST_BYTES:  # else it is not all there
            host = host.strip(b" \t")
            length = len(host)
        outcome = self._outcome(f, "", first)
        # What is said to be malformed may be so only prospectively.
        found = requests.saw(f["saw"]) if MALFORMED in (outcome.reason, audit and audit.reason) else Saw.NOTHING
        saw = found if outcome.reason == MALFORMED else Saw.NOTHING
        shown = (shown_method(method, f["method_length"]), shown_path(path, f["path_length"]), shown_host(host, length))
        answer = requests.answer(f["answer"]).word
        return RequestAnswer(outcome, answer, *shown_before(found, shown), audit, saw)

    @staticmethod
    def is_again(record: bytes) -> bool:
        """Whether the request before, whose head was allowed, is told again, being malformed in its body."""
        return requests.saw(requests.fields(record)["saw"]) in (Saw.CHUNK, Saw.TRAILER)

    def _outcome(self, f: dict[str, Any], prefix: str, first: Rule | None) -> Outcome:
        verdict: Literal["allow", "deny"] = "allow" if f[f"{prefix}verdict"] else "deny"
        reason = Reason(f[f"{prefix}reason"]).word
        entry, rank = f[f"{prefix}entry"], f[f"{prefix}rank"]
        if entry != NO_ENTRY:
            return Outcome(verdict, reason, *self._entries[entry])
        return Outcome(verdict, reason, first if rank == NO_RULE else self._rules[rank])
