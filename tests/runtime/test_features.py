"""Protects `doctor`: three answers, each missing thing with what to do, nothing guessed without permission."""

from __future__ import annotations

import pytest

from policyc.diagnostics import OperationError
from policyc.runtime import features, libbpf
from policyc.runtime.features import Answer, _of, _probe, examine


def test_probe_has_three_answers() -> None:
    assert [_of(1), _of(0), _of(-22)] == [Answer.THERE, Answer.NOT_THERE, Answer.UNKNOWN]

    def failing() -> Answer:
        raise OperationError("no idea")

    assert _probe("x", True, failing).answer is Answer.UNKNOWN
    assert _probe("x", False, lambda: Answer.THERE).answer is Answer.UNKNOWN


def test_without_libbpf_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf-that-is-not-there.so.1")
    libbpf.lib.cache_clear()
    try:
        found = {f.subject: f for f in examine()}
    finally:
        libbpf.lib.cache_clear()
    assert found["libbpf"].answer is Answer.NOT_THERE
    assert "libbpf1" in found["libbpf"].help
    assert found["bpf()"].answer is Answer.UNKNOWN
    assert {f.answer for s, f in found.items() if s.startswith(("map type", "helper", "program"))} == {Answer.UNKNOWN}


def test_an_old_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features.platform, "release", lambda: "5.10.0-8-amd64")
    assert features._kernel().answer is Answer.NOT_THERE
    monkeypatch.setattr(features.platform, "release", lambda: "what")
    assert features._kernel().answer is Answer.UNKNOWN


@pytest.mark.bpf
def test_this_kernel_has_all() -> None:
    assert [f for f in examine() if f.needed and f.answer is not Answer.THERE] == []


@pytest.mark.bpf
def test_what_streams_take_is_asked() -> None:
    found = {f.subject: f for f in features._streams(True)}
    assert {f.answer for f in found.values()} == {Answer.THERE}
    assert not any(f.needed for f in found.values())
    assert {"program type sk_msg", "map type CGROUP_STORAGE", "SOCK_DESTROY"} <= set(found)
    assert {f.answer for f in features._streams(False)[:-1]} == {Answer.UNKNOWN}


def test_missing_capabilities_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "effective_capabilities", lambda: 1 << 12)
    error = libbpf.error(1, "load a program")
    assert error.exit_code == 3
    assert error.help is not None
    assert error.help.startswith("CAP_PERFMON, CAP_BPF are missing")
    monkeypatch.setattr(libbpf, "effective_capabilities", lambda: 1 << 12 | 1 << 38 | 1 << 39)
    assert "seccomp" in str(libbpf.error(1, "load a program").help)
