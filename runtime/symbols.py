"""Addresses of the running kernel's symbols."""

from __future__ import annotations

from pathlib import Path

KALLSYMS = Path("/proc/kallsyms")


def address(name: str) -> int:
    """Where the kernel has a function; 0 where it does not say (kernel.kptr_restrict, no CAP_SYSLOG, no such symbol)."""
    try:
        lines = KALLSYMS.read_bytes()
    except OSError:
        return 0
    at = lines.find(f" {name}\n".encode())  # of modules a tab and their name would follow
    line = lines[lines.rfind(b"\n", 0, at) + 1 : at].split() if at >= 0 else []
    return int(line[0], 16) if line else 0
