"""Who is judged by L7 rules and has no stream that can be seen: what a load refuses, and what it says beforehand.

A rule with a block allows only what is seen: sockets in the subject's cgroup. At an interface or uplink alone, and of this machine
itself, none is, and what such a rule allows is denied there (`l7-not-seen`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Protocol

from policyc.artifact.layout import PointKind
from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.model import PeerClass, PeerSelector, Rule, Selector, Subject
from policyc.runtime.identity import Matcher
from policyc.runtime.points import Plan, plan_of
from policyc.runtime.state import Store, names

FEW = 3  # names in a message


class Labelled(Protocol):
    """An endpoint, whether registered or to be."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> dict[str, str]: ...


class L7Subjects:
    """Whom the rules with a block in force select, of one policy, which is read when somebody is asked for."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact

    @cached_property
    def _subjects(self) -> list[tuple[Subject, Rule]]:
        found: list[tuple[Subject, Rule]] = []
        for policy in self._artifact.policy.policies if self._artifact.manifest.stream_hooks else ():
            rule = next((r for r in policy.rules if r.http is not None and not r.http.audit and not r.audit), None)
            if rule is not None and not policy.audit:
                found += [(subject, rule) for subject in policy.subjects]
        return found

    @cached_property
    def _by_labels(self) -> tuple[Matcher, list[Rule]]:
        chosen = [(s, rule) for s, rule in self._subjects if s is not PeerClass.HOST]
        selectors = [s.selector if isinstance(s, PeerSelector) else Selector() for s, _ in chosen]
        return Matcher(selectors), [rule for _, rule in chosen]

    @property
    def host(self) -> Rule | None:
        """The first whose subject is this machine."""
        return next((rule for subject, rule in self._subjects if subject is PeerClass.HOST), None)

    def rule(self, labels: Mapping[str, str]) -> Rule | None:
        """The first that selects an endpoint with these labels as its subject."""
        matcher, rules = self._by_labels
        found = matcher.match(labels)
        return rules[found[0]] if found else None

    def refuse(self, endpoints: Iterable[Labelled], plan: Plan) -> None:
        """Raises `OperationError` where an endpoint is bound by interface only and a rule with a block has it as its subject."""
        for endpoint in endpoints:
            if not _interface_only(plan, endpoint.name):
                continue
            rule = self.rule(endpoint.labels)
            if rule is not None:
                raise OperationError(
                    f"endpoint {endpoint.name!r} is bound by interface only, where no stream can be seen, and {rule.ref} ({rule.span})"
                    " judges requests of its connections",
                    "bind its cgroup, too, or say with --l7-deny that these connections are to be denied",
                )

    def warnings(self, endpoints: Iterable[Labelled], plan: Plan) -> Iterator[str]:
        """What can be known before a packet comes."""
        uplinks = [str(p) for p in plan.devices.values() if p.kind is PointKind.UPLINK]
        bound: list[tuple[str, Rule]] = []
        elsewhere: list[tuple[str, Rule]] = []
        for endpoint in endpoints:
            if plan.owned(endpoint.name).cgroups or not (plan.owned(endpoint.name).devices or uplinks):
                continue
            rule = self.rule(endpoint.labels)
            if rule is None:
                continue
            if _interface_only(plan, endpoint.name):
                bound.append((endpoint.name, rule))
            else:
                elsewhere.append((endpoint.name, rule))
        denied = "connections whose requests it judges are denied there (l7-not-seen)"
        if bound:
            yield f"{_some(bound)}: bound by interface only, where no stream is seen: {denied}"
        if elsewhere:
            yield f"{_some(elsewhere)}: judged at {uplinks[0]}, where no stream is seen: {denied}"
        host = self.host if uplinks else None
        if host is not None:
            yield f"host, by {host.ref}: no stream of this machine itself is seen: {denied}"


def refuse_shared(name: str, plan: Plan) -> None:
    """Raises `OperationError` where another load judges streams at a cgroup of `plan`, above or below it: a socket is taken over
    once."""
    mine = [p.path for p in plan.cgroups.values()]
    if not mine:
        return
    for other in names():
        if other == name:
            continue
        try:
            snapshot = Store(other).read()
        except OperationError:
            continue  # being loaded or unloaded, or damaged
        if not snapshot.header.streams:
            continue
        for path in (p.path for p in plan_of(snapshot).cgroups.values()):
            for own in mine:
                if _nested(path, own):
                    raise OperationError(
                        f"load {other!r} judges the streams of cgroup {path}, and one load can judge those of {own}",
                        f"put the L7 rules into one policy, or `policyc unload {other}` first",
                    )


def _nested(a: str, b: str) -> bool:
    return a == b or a.startswith(b + "/") or b.startswith(a + "/")


def _interface_only(plan: Plan, name: str) -> bool:
    owned = plan.owned(name)
    return bool(owned.devices) and not owned.cgroups


def _some(found: list[tuple[str, Rule]]) -> str:
    """`web, api, by shop.ingress.1`."""
    shown = ", ".join(name for name, _ in found[:FEW])
    more = f" and {len(found) - FEW} more" if len(found) > FEW else ""
    return f"{shown}{more}, by {found[0][1].ref}"
