"""Each diagnostic is what its example says: the bad one gives it, once and alone, the mended one nothing."""

from __future__ import annotations

import pytest

from policyc.codes import CODES, Code

SHOWN = [c for c in CODES.values() if c.bad]


@pytest.mark.parametrize("code", SHOWN, ids=lambda c: c.name)
def test_bad_example_gives_the_code_alone(code: Code, compiled) -> None:
    found = compiled(code.bad).diagnostics
    assert {(d.code, d.name, d.severity) for d in found} == {(code.code, code.name, code.severity)}
    assert len(found) == 1 or code.name in ("set-cycle",)


@pytest.mark.parametrize("code", SHOWN, ids=lambda c: c.name)
def test_every_finding_has_help(code: Code, compiled) -> None:
    assert all(d.help for d in compiled(code.bad).diagnostics)


@pytest.mark.parametrize("code", [c for c in SHOWN if c.mended], ids=lambda c: c.name)
def test_mended_example_has_no_error(code: Code, compiled) -> None:
    result = compiled(code.mended)
    assert [d.name for d in result.diagnostics if d.severity == "error" or d.name == code.name] == []
    assert result.policy is not None


def test_codes_and_names_are_unique_and_well_formed() -> None:
    assert len({c.name for c in CODES.values()}) == len(CODES)
    for code in CODES.values():
        assert len(code.code) == 5
        assert code.code[0] == "P"
        assert code.code[1:].isdigit()
        assert code.explanation.endswith(".")
        assert (code.severity == "warning") == (code.code[2] == "1")
