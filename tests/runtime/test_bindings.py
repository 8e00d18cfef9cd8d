"""Protects the checked-in libbpf binding: it is what its declarations generate, it is cheap, libbpf agrees with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from policyc.runtime import bindings, libbpf


def test_generated_module_is_current(tmp_path: Path) -> None:
    target = tmp_path / "_libbpf.py"
    bindings.generate(target)
    assert target.read_text() == bindings.TARGET.read_text(), "run python -m policyc.runtime.bindings"


def test_runtime_imports_no_compiler() -> None:
    code = (
        "import sys, policyc.runtime.load, policyc.runtime.registry, policyc.runtime.attach\n"
        "bad = {'llvmlite', 'lark', 'cffi', 'pycparser'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_struct_sizes_are_those_of_the_header() -> None:
    sizes = {
        "bpf_object_open_opts": 80,
        "bpf_link_create_opts": 64,
        "bpf_test_run_opts": 80,
        "bpf_tc_opts": 32,
        "bpf_tc_hook": 24,
        "bpf_map_batch_opts": 24,
    }
    assert {name: libbpf.ffi.sizeof(f"struct {name}") for name in sizes} == sizes


def test_missing_library_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf-that-is-not-there.so.1")
    libbpf.lib.cache_clear()
    try:
        with pytest.raises(libbpf.OperationError) as caught:
            libbpf.lib()
    finally:
        libbpf.lib.cache_clear()
    assert caught.value.exit_code == 3
    assert caught.value.help is not None
    assert "libbpf1" in caught.value.help
