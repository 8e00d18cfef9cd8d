"""Tests marked `bpf` run where the process may use bpf(); elsewhere they are skipped and counted in the last lines.

`POLICYC_REQUIRE_BPF=1` makes each such skip a failure: continuous integration must not pass without the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from functools import cache

import hypothesis
import pytest

REQUIRED = os.environ.get("POLICYC_REQUIRE_BPF") == "1"
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
BPF_MAP_CREATE, BPF_MAP_TYPE_HASH = 0, 1
# That an example took long on a busy machine is no finding.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@cache
def missing_permission() -> str | None:
    """Why bpf() cannot be used here, or None. Asks the kernel once, by making a map of one entry."""
    if os.geteuid() != 0:
        return "needs root (network namespaces, cgroups)"
    number = BPF_SYSCALL.get(platform.machine())
    if number is None:
        return f"the bpf() system call of {platform.machine()} is not known to the tests"
    libc = ctypes.CDLL(None, use_errno=True)
    # Unprivileged bpf() may make arrays; a hash map has needed the permission since it can be switched off.
    attributes = ctypes.create_string_buffer(struct.pack("<5I", BPF_MAP_TYPE_HASH, 4, 4, 1, 0), 128)
    descriptor = libc.syscall(number, BPF_MAP_CREATE, attributes, len(attributes))
    if descriptor < 0:
        return f"bpf() is not permitted: {os.strerror(ctypes.get_errno())}"
    os.close(descriptor)
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("bpf") is None:
        return
    reason = missing_permission()
    if reason is None:
        return
    if REQUIRED:
        pytest.fail(f"POLICYC_REQUIRE_BPF=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A skip inside a `bpf` test (a missing tool, a missing device) is a failure too where the kernel is required."""
    report = (yield).get_result()
    if not (REQUIRED and report.skipped and item.get_closest_marker("bpf")) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"POLICYC_REQUIRE_BPF=1, but the test was skipped: {reason}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.getreports("skipped") if "bpf" in r.keywords]
    if not skipped:
        return
    reason = missing_permission() or "see the reasons above"
    terminalreporter.write_sep("=", "KERNEL TESTS DID NOT RUN", yellow=True, bold=True)
    terminalreporter.write_line(f"{len(skipped)} tests that need the kernel were skipped: {reason}.")
    terminalreporter.write_line("Run them as root where bpf() is permitted; POLICYC_REQUIRE_BPF=1 makes them required.")
