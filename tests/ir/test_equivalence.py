"""Protects the meaning of a policy on its way through the IR: the tables give every flow what the rules say."""

from __future__ import annotations

from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from policyc.ir.passes import partition_cidrs
from policyc.ir.pipeline import build
from policyc.model import Direction, PeerClass
from tests.ir.policies import ADDRESSES4, ADDRESSES6, KEYS, VALUES, dense_policy_sets, policy_sets
from tests.ir.worlds import Flow, judge_naively, judge_tables

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))


@st.composite
def flows(draw):
    peer_class = draw(st.sampled_from([PeerClass.WORLD, PeerClass.HOST, PeerClass.ENDPOINTS, PeerClass.ENDPOINTS]))
    family = draw(st.sampled_from([4, 4, 6]))
    protocol = draw(st.sampled_from([6, 6, 17, 1, 112, 58]))
    portless = draw(st.integers(0, 3)) == 0
    ports = {6: [0, 1, 2, 3, 4, 5, 65535], 17: [1, 2, 65535], 1: [0, 0x0800, 0x0801, 0xFF00, 0xFFFF]}.get(protocol, [0])
    return Flow(
        subject=draw(st.one_of(st.none(), labels, labels)),
        direction=draw(st.sampled_from([Direction.INGRESS, Direction.INGRESS, Direction.EGRESS])),
        peer_class=peer_class,
        peer_labels=draw(labels) if peer_class is PeerClass.ENDPOINTS else None,
        family=family,
        address=draw(st.sampled_from(ADDRESSES4 if family == 4 else ADDRESSES6)),
        protocol=protocol,
        port=0 if portless else draw(st.sampled_from(ports)),
        portless=portless,
    )


@settings(max_examples=400, deadline=None)
@given(policy_sets(), st.lists(flows(), min_size=20, max_size=20), st.sampled_from([0, 8, partition_cidrs.LAYER_CELLS]))
def test_tables_agree_with_the_rules_enforced_and_prospective(policy_set, some_flows, layer_cells):
    with mock.patch.object(partition_cidrs, "LAYER_CELLS", layer_cells):
        tables = build(policy_set)
    for flow in some_flows:
        for prospective in (False, True):
            assert judge_tables(tables, flow, prospective) == judge_naively(policy_set, flow, prospective), flow


DENSE_FLOWS = [
    Flow(None, Direction.INGRESS, peer_class, None, 4, address, 6, port, portless)
    for peer_class in (PeerClass.WORLD, PeerClass.HOST)
    for address in (1, 4, 8, 20)
    for port, portless in [(0, True), *((port, False) for port in range(6))]
]


@settings(max_examples=400, deadline=None)
@given(dense_policy_sets())
def test_rules_that_hide_one_another_keep_counted_rule_and_log(policy_set):
    tables = build(policy_set)
    for flow in DENSE_FLOWS:
        for prospective in (False, True):
            assert judge_tables(tables, flow, prospective) == judge_naively(policy_set, flow, prospective), flow


@settings(max_examples=50, deadline=None)
@given(policy_sets())
def test_output_is_deterministic(policy_set):
    assert build(policy_set) == build(policy_set)
