"""The checked policy survives the manifest without loss, and a wrong document is refused with the place."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.artifact import policy_json
from policyc.artifact.shape import Node, ShapeError
from policyc.model import (
    Action,
    AddressSet,
    HttpBlock,
    HttpCondition,
    HttpEntry,
    HttpExpectation,
    Pattern,
    PolicySet,
)
from tests.artifact.objects import rich_policy, span


def through_json(policy: PolicySet) -> PolicySet:
    text = json.dumps(policy_json.encode(policy), sort_keys=True, ensure_ascii=False)
    return policy_json.decode(Node(json.loads(text)))


def test_everything_comes_back() -> None:
    assert through_json(rich_policy()) == rich_policy()


def http_policy() -> PolicySet:
    """With every construct of HTTP blocks and requests."""
    block = HttpBlock(
        (
            HttpEntry(1, Action.ALLOW, (), (), (), (), None, False, span(4)),
            HttpEntry(
                2,
                Action.DENY,
                ("GET", "M-SEARCH"),
                (
                    Pattern("glob", "/v1/**", span(5)),
                    Pattern("regex", '/\\d"', span(6)),
                    Pattern("string", "*", span(7)),
                ),
                (Pattern("string", "é", span(8, "b")),),
                (
                    HttpCondition("header", "x-a", (Pattern("string", "", span(9)),)),
                    HttpCondition("query", "", (), True),
                ),
                ("websocket", "h2c"),
                True,
                span(10),
            ),
            HttpEntry(3, Action.ALLOW, (), (), (), (), (), False, span(11)),
        ),
        span(3),
        True,
        65536,
    )
    rich = rich_policy()
    policy, test = rich.policies[0], rich.tests[0]
    allow = replace(policy.rules[0], action=Action.ALLOW, http=block)
    request = HttpExpectation("GET", "/a b?", "x", (("N", "v"), ("n", "")))
    expectations = tuple(replace(test.expectations[0], http=h) for h in (request, HttpExpectation("*", "*")))
    return replace(
        rich,
        policies=(replace(policy, rules=(allow, *policy.rules[1:])),),
        tests=(replace(test, expectations=expectations),),
    )


def test_http_comes_back() -> None:
    assert through_json(http_policy()) == http_policy()


def test_what_has_no_block_says_nothing_of_http() -> None:
    """Artifacts of policies without blocks are what they were."""
    assert '"http"' not in json.dumps(policy_json.encode(rich_policy()))


def test_encoding_is_deterministic() -> None:
    assert policy_json.encode(rich_policy()) == policy_json.encode(copy.deepcopy(rich_policy()))


def test_order_of_identities_is_kept() -> None:
    assert list(through_json(rich_policy()).identities) == ["web", "me"]


def test_an_address_set_stands_once() -> None:
    document = policy_json.encode(rich_policy())
    assert len(document["address_sets"]) == 2


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found += places(inner, (*path, key))
    return found


DOCUMENT = json.loads(json.dumps(policy_json.encode(http_policy())))
JUNK = [None, True, -1, 2**200, 1.5, "", "junk", "\ud800", [], [[]], {}, {"a": 1}, [1, 2, 3, 4, 5]]


@given(st.sampled_from(places(DOCUMENT)), st.sampled_from(JUNK))
def test_no_wrong_value_escapes(place: tuple[str | int, ...], junk: object) -> None:
    """Any value anywhere replaced by junk: a policy or a `ShapeError`, nothing else."""
    document = copy.deepcopy(DOCUMENT)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = junk
    try:
        policy_json.decode(Node(document))
    except ShapeError:
        pass


@pytest.mark.parametrize(
    ("path", "junk", "message"),
    [
        (
            ("policies", 0, "rules", 0, "http", "entries", 1, "paths", 0, 0),
            "globe",
            "policies[0].rules[0].http.entries[1].paths[0][0]: expected string, glob or regex",
        ),
        (
            ("policies", 0, "rules", 0, "http", "entries", 1, "conditions", 0, "kind"),
            "cookie",
            "policies[0].rules[0].http.entries[1].conditions[0].kind: expected header or query",
        ),
        (
            ("policies", 0, "rules", 0, "action"),
            "allo",
            "policies[0].rules[0].action: expected one of deny, allow, pass",
        ),
        (("policies", 0, "subjects", 0), "any", "policies[0].subjects[0]: expected endpoints, host or a selector"),
        (("address_sets", 0, "v4"), [[5, 9], [10, 11]], "address_sets[0].v4: expected ascending ranges"),
        (("policies", 0, "span"), [7, 1, 1, 1, 1], "policies[0].span[0]: expected the index of a file"),
        (
            ("policies", 0, "rules", 0, "http", "entries", 1, "action"),
            "pass",
            "policies[0].rules[0].http.entries[1].action: e",
        ),
        (
            ("policies", 0, "rules", 0, "http", "entries", 1, "number"),
            3,
            "policies[0].rules[0].http.entries[1].number: expec",
        ),
        (
            ("policies", 0, "rules", 0, "http", "limit"),
            65537,
            "policies[0].rules[0].http.limit: expected an integer from",
        ),
        (("language",), None, "language: expected a value, found none"),
    ],
)
def test_message_names_the_place(path: tuple[str | int, ...], junk: object, message: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = junk
    with pytest.raises(ShapeError) as caught:
        policy_json.decode(Node(document))
    assert str(caught.value).startswith(message)


ADDRESSES = st.integers(0, 2**32 - 1)


@given(st.lists(ADDRESSES, unique=True, max_size=8).map(sorted))
def test_address_sets_come_back(points: list[int]) -> None:
    apart = [p for i, p in enumerate(points) if i == 0 or p > points[i - 1] + 1]
    addresses = AddressSet(v4=tuple((p, p) for p in apart), v6=tuple((p << 90, p << 90) for p in apart))
    policy = PolicySet(1, (), {}, (), addresses)
    assert through_json(policy) == policy
