"""Protects the text form: it loses nothing, and says where a text is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyc.ir.pipeline import PASSES, build
from policyc.ir.text import TextError, parse_module, print_module
from policyc.ir.text_lines import Line, lines, parse_selector, print_selector
from policyc.model import Op, Requirement, Selector
from tests.ir.policies import policy_sets


@settings(max_examples=60, deadline=None)
@given(policy_sets())
def test_every_pass_result_prints_and_parses_back(policy_set):
    seen = []

    def observe(name, module, _seconds):
        seen.append(name)
        text = print_module(module)
        assert parse_module(text) == module
        assert print_module(parse_module(text)) == text

    build(policy_set, observer=observe)
    assert seen == [step.name for step in PASSES]


any_text = st.text(alphabet=st.characters(exclude_categories=[]))


@given(any_text, st.sampled_from([Op.IN, Op.NOT_IN]), st.lists(any_text, min_size=1))
def test_labels_of_any_characters_survive(key, op, values):
    selector = Selector((Requirement(key, Op.EXISTS), Requirement(key, op, tuple(values))))
    (line,) = lines(print_selector(selector))
    assert parse_selector(line) == selector


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the text is empty"),
        ("bytecode", "line 1: `flat` or `tables` expected, not 'bytecode'"),
        ("flat\nrow 0", "line 2: 'row' begins no line of the flat IR"),
        ('flat\nsame-key 1 "a"', "line 2: number 0 expected, not 1"),
        ('flat\nsame-key 0 "a', "line 2: a string does not end"),
        ("flat\nsame-key 0 a", "line 2: a string expected, not 'a'"),
        ("flat\nmatch 0 peer 0 services 0", "line 2: a match stands in no group"),
        ("flat\npeer 0 nobody", "line 2: 'nobody' is no peer"),
        ("flat\npeer 0 any any", "line 2: 'any' is too much"),
        ("flat\nservices 0 full/6/80..full/256/1", "line 2: a key (KIND/PROTOCOL/PORT) expected, not 'full/256/1'"),
        ("flat\naddresses 0\n range4 10.0.0.0 ::1", "line 3: an IPv4 address expected, not '::1'"),
        ("tables\n# a comment\n\ncell full/0/0 none", "line 4: a cell stands in no row"),
        ("tables\ngroup 0 sideways", "line 2: 'sideways' is no direction"),
        ("tables\nrow", "line 2: ends too early"),
    ],
)
def test_errors_name_the_line_and_what_was_expected(text, message):
    with pytest.raises(TextError) as caught:
        parse_module(text)
    assert str(caught.value) == message


@given(st.text())
def test_no_line_ends_in_another_error(text):
    try:
        parse_module("tables\n" + text)
        Line(text, 1)
    except TextError:
        pass
