"""Flows, and their outcome twice: by the rules of a `PolicySet` (naive), and by the `Tables` (as the program does it)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from policyc.ir.tables import KeyKind, Tables, service_key
from policyc.model import (
    Action,
    Direction,
    Op,
    PeerCidrs,
    PeerClass,
    PeerSame,
    PeerSelector,
    PolicySet,
    Selector,
    Service,
    Tier,
)


@dataclass(frozen=True)
class Flow:
    """`subject`, `peer_labels`: labels; None is host (subject) or no endpoint (peer). `portless`: a later fragment."""

    subject: dict[str, str] | None
    direction: Direction
    peer_class: PeerClass
    peer_labels: dict[str, str] | None
    family: int
    address: int
    protocol: int
    port: int
    portless: bool


@dataclass(frozen=True)
class Outcome:
    """`rule`: the counted rule's ref. `log`: an event is due."""

    allowed: bool
    reason: str
    rule: str | None = None
    log: bool = False


def selects(selector: Selector, labels: dict[str, str]) -> bool:
    def holds(r):
        value = labels.get(r.key)
        if r.op in (Op.EQ, Op.IN):
            return value in r.values
        if r.op in (Op.NE, Op.NOT_IN):
            return value not in r.values
        return (value is None) == (r.op is Op.NOT_EXISTS)

    return all(holds(r) for r in selector.requirements)


# --- the rules, one by one --------------------------------------------------------------------------------------


def judge_naively(policy_set: PolicySet, flow: Flow, prospective: bool) -> Outcome:
    policies = [
        p
        for p in policy_set.policies
        if (prospective or not p.audit) and any(_is_subject(s, flow.subject) for s in p.subjects)
    ]
    for tier in Tier:
        outcome = _judge_tier([p for p in policies if p.tier is tier], flow, prospective)
        if outcome is not None:
            return outcome
    return Outcome(True, "default" if policies else "no-policy")


def _judge_tier(policies, flow, prospective):
    """None: the tier leaves it to the next."""
    rules = [
        r
        for p in policies
        for r in p.rules
        if r.direction is flow.direction
        and (prospective or not r.audit)
        and any(_is_peer(peer, flow) for peer in r.peers)
    ]
    rules.sort(key=lambda r: (r.priority, r.action, r.order))
    for _, level in groupby(rules, key=lambda r: r.priority):
        level = list(level)
        if flow.portless and any(_names_port(r, flow.protocol) for r in level):
            return Outcome(False, "fragment")
        matching = [r for r in level if _matches(r, flow)]
        if matching:
            best = matching[0]
            log = any(r.log for r in matching if r.action is best.action)
            return None if best.action is Action.PASS else Outcome(best.action is Action.ALLOW, "rule", best.ref, log)
    isolating = [p.isolation[flow.direction] for p in policies if flow.direction in p.isolation]
    if isolating:
        return Outcome(False, "default", None, any(i.log for i in isolating))
    return None


def _is_subject(subject, labels):
    if labels is None:
        return subject is PeerClass.HOST
    if isinstance(subject, PeerSelector):
        return selects(subject.selector, labels)
    return subject is PeerClass.ENDPOINTS


def _is_peer(peer, flow):
    if isinstance(peer, PeerClass):
        return peer in (PeerClass.ANY, flow.peer_class)
    if isinstance(peer, PeerCidrs):
        ranges = peer.addresses.v4 if flow.family == 4 else peer.addresses.v6
        inside = any(low <= flow.address <= high for low, high in ranges)
        return inside and (not peer.world_only or flow.peer_class is PeerClass.WORLD)
    if flow.peer_labels is None:
        return False
    if isinstance(peer, PeerSame):
        return flow.subject is not None and all(
            k in flow.subject and flow.subject[k] == flow.peer_labels.get(k) for k in peer.keys
        )
    return selects(peer.selector, flow.peer_labels)


def _names_port(rule, protocol):
    return any(s.protocol == protocol and (s.ports or s.icmp_type is not None) for s in rule.services)


def _matches(rule, flow):
    def fits(s):
        if s.protocol is None:
            return True
        if s.protocol != flow.protocol:
            return False
        if s.ports is None and s.icmp_type is None:
            return True
        if flow.portless:
            return False
        if s.ports is not None:
            return s.ports[0] <= flow.port <= s.ports[1]
        return s.icmp_type == flow.port >> 8 and s.icmp_code in (None, flow.port & 0xFF)

    return any(fits(s) for s in rule.services or (Service(),))


# --- the tables ---------------------------------------------------------------------------------------------------


def judge_tables(tables: Tables, flow: Flow, prospective: bool) -> Outcome:
    for tier in Tier:
        outcome = _judge_tables_tier(tables, flow, prospective, tier)
        if outcome is not None:
            return outcome
    selected = any((prospective or s.enforced) and _group_selects(tables, s.subject, flow) for s in tables.selected)
    return Outcome(True, "default" if selected else "no-policy")


def _judge_tables_tier(tables, flow, prospective, tier):
    groups = [
        g
        for g in tables.groups
        if g.tier is tier and g.direction is flow.direction and _group_selects(tables, g.subject, flow)
    ]
    rows = [row for g in groups for row in _rows(tables, g, flow)]
    best = _best(tables, rows, KeyKind.PORTLESS if flow.portless else KeyKind.FULL, flow, prospective)
    if flow.portless:
        named = _best(tables, rows, KeyKind.NAMED, flow, prospective)
        if named and (not best or tables.rules[named[0]].level <= tables.rules[best[0]].level):
            return Outcome(False, "fragment")
    if best:
        rule = tables.rules[best[0]]
        return None if rule.action is Action.PASS else Outcome(rule.action is Action.ALLOW, "rule", rule.ref, best[1])
    isolations = [g.isolation for g in groups]
    if any(i.prospective if prospective else i.enforced for i in isolations):
        return Outcome(False, "default", None, any(i.log_prospective if prospective else i.log for i in isolations))
    return None


def _group_selects(tables, subject, flow):
    if flow.subject is None:
        return subject is PeerClass.HOST
    return subject is not PeerClass.HOST and selects(tables.selectors[subject], flow.subject)


def _rows(tables, group, flow):
    rows = [
        {
            PeerClass.WORLD: group.row_world,
            PeerClass.HOST: group.row_host,
            PeerClass.ENDPOINTS: group.row_endpoint,
        }[flow.peer_class]
    ]
    if flow.peer_labels is not None:
        rows += [row for s, row in group.selectors if selects(tables.selectors[s], flow.peer_labels)]
        for indices, row in group.same:
            keys = [tables.same_keys[i] for i in indices]
            if all(k in (flow.subject or {}) and flow.subject[k] == flow.peer_labels.get(k) for k in keys):
                rows.append(row)
    for use in group.cidrs:
        table = tables.cidr_tables[use.table]
        starts = table.v4 if flow.family == 4 else table.v6
        number = [c for start, c in starts if start <= flow.address][-1]
        by_class = use.rows_world if flow.peer_class is PeerClass.WORLD else use.rows_any
        rows.append(by_class[number])
    return rows


def _best(tables, rows, kind, flow, prospective):
    """(rank, log) of the best cell, None if no rule matches."""
    key = service_key(kind, flow.protocol, flow.port if kind is KeyKind.FULL else 0)
    cells = [[c for first, c in tables.rows[row].cells if first <= key][-1] for row in rows]
    found = [b for c in cells if (b := c.prospective if prospective else c.enforced) is not None]
    if not found:
        return None
    rank = min(b.rank for b in found)

    def batch(r):
        return tables.rules[r].level, tables.rules[r].action

    return rank, any(b.log for b in found if batch(b.rank) == batch(rank))
