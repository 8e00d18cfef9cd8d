"""The verdict on the first packet of a connection, in one direction, for one subject."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from policyc.model import Action, Direction, Rule, Service, Tier
from policyc.reference.world import Address, End, Level, RuleBook, Subject, TierRules, World, winning_action

Verdict = Literal["allow", "deny"]


@dataclass(frozen=True)
class Traffic:
    """What services are matched with: the protocol's number, the destination port (tcp, udp, sctp) or ICMP type and code.

    A later fragment has neither port nor type (`fragment`)."""

    protocol: int
    port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    fragment: bool = False


@dataclass(frozen=True)
class Judgement:
    """A verdict and why. `rule` is the one that is counted; `isolated_by` names the policies whose default denied;
    `tier` is where it was decided, None where nothing decided. `prospective` stands where audit would change the verdict.
    `rules`: of an allow, the matching rules of the deciding level, which judge requests; `prospective_rules`: those with all that is audited in
    force, none if that denies (None: the same)."""

    verdict: Verdict
    reason: str
    rule: Rule | None = None
    tier: Tier | None = None
    priority: int | None = None
    isolated_by: tuple[str, ...] = ()
    log: bool = False
    prospective: Judgement | None = None
    rules: tuple[Rule, ...] = ()
    prospective_rules: tuple[Rule, ...] | None = None


def service_matches(service: Service, traffic: Traffic) -> bool:
    if service.protocol is None:
        return True
    if service.protocol != traffic.protocol:
        return False
    if service.ports is not None:
        return traffic.port is not None and service.ports[0] <= traffic.port <= service.ports[1]
    if service.icmp_type is not None:
        code_fits = service.icmp_code is None or service.icmp_code == traffic.icmp_code
        return service.icmp_type == traffic.icmp_type and code_fits
    return True


def names_port(service: Service, protocol: int) -> bool:
    """Whether a service names a port or type of this protocol."""
    return service.protocol == protocol and (service.ports is not None or service.icmp_type is not None)


class _Case:
    """One flow in one direction: which rules match it."""

    def __init__(self, world: World, subject: Subject, end: End, traffic: Traffic) -> None:
        self._world, self._subject, self._end, self._traffic = world, subject, end, traffic

    def _peer_matches(self, rule: Rule) -> bool:
        return any(self._world.peer_matches(p, self._subject, self._end) for p in rule.peers)

    def _service_matches(self, rule: Rule) -> bool:
        if not rule.services:
            return True
        for service in rule.services:  # noqa: SIM110 (any() costs more than the match)
            if service_matches(service, self._traffic):
                return True
        return False

    def matching(self, level: Level) -> list[Rule]:
        return [r for r in level.rules if self._service_matches(r) and self._peer_matches(r)]

    def names_port(self, level: Level) -> bool:
        """Whether a rule that names a port or type could match this later fragment."""
        protocol = self._traffic.protocol
        return self._traffic.fragment and any(
            any(names_port(s, protocol) for s in r.services) and self._peer_matches(r) for r in level.rules
        )


FRAGMENT = Judgement("deny", "fragment")


def _tier_default(tier: TierRules, direction: Direction) -> Judgement | None:
    if not tier.isolating:
        return None
    names = tuple(p.name for p in tier.isolating)
    log = any(p.isolation[direction].log for p in tier.isolating)
    return Judgement("deny", "default", tier=tier.tier, isolated_by=names, log=log)


def _judge_tier(case: _Case, tier: TierRules, direction: Direction) -> Judgement | None:
    """None: the next tier is asked."""
    for level in tier.levels:
        if case.names_port(level):
            return FRAGMENT
        matching = case.matching(level)
        if not matching:
            continue
        action = winning_action(matching)
        if action is Action.PASS:
            return None
        winners = [r for r in matching if r.action is action]
        rule = min(winners, key=lambda r: r.order)
        verdict: Verdict = "deny" if action is Action.DENY else "allow"
        log, allowing = any(r.log for r in winners), tuple(winners) if verdict == "allow" else ()
        return Judgement(verdict, "rule", rule, tier.tier, level.priority, log=log, rules=allowing)
    return _tier_default(tier, direction)


def _decide(case: _Case, book: RuleBook, direction: Direction) -> Judgement:
    for tier in book.tiers:
        judgement = _judge_tier(case, tier, direction)
        if judgement is not None:
            return judgement
    return Judgement("allow", "default" if book.selected else "no-policy")


def judge(world: World, subject: Subject, direction: Direction, peer: Address, traffic: Traffic) -> Judgement:
    """Judge as the first packet of a new connection. `peer` is the other end's address."""
    enforced = _judge(world, subject, direction, peer, traffic, audited=False)
    if not world.has_audit:
        return enforced
    prospective = judge_prospectively(world, subject, direction, peer, traffic)
    if prospective.rules != enforced.rules:
        enforced = replace(enforced, prospective_rules=prospective.rules)
    if prospective.verdict == enforced.verdict:
        return enforced
    return replace(enforced, prospective=prospective)


def judge_prospectively(
    world: World, subject: Subject, direction: Direction, peer: Address, traffic: Traffic
) -> Judgement:
    """The same with all that is audited in force."""
    return _judge(world, subject, direction, peer, traffic, audited=True)


def _judge(
    world: World, subject: Subject, direction: Direction, peer: Address, traffic: Traffic, *, audited: bool
) -> Judgement:
    case = _Case(world, subject, world.peer(peer), traffic)
    return _decide(case, world.book(subject, direction, audited=audited), direction)
