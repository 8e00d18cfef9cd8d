"""The seal: the SHA-256 of the whole file, in a section of its own.

It finds accidents: a truncated download, a flipped bit, an object that a tool has rewritten. It is no signature and
proves nothing about who made a file; whoever can change the file can seal it again.

Section `policyc.digest`, 64 bytes: `policyc-sha256:` and a NUL (16), zeros (16), the digest (32). It is taken over the
file with these last 32 bytes zero.
"""

from __future__ import annotations

import hashlib

from policyc.artifact.elf import ElfError, Section, contents, sections
from policyc.artifact.manifest import DIGEST_SECTION

TAG = b"policyc-sha256:\0"
DIGEST_SIZE = 32
BLANK = TAG + bytes(16) + bytes(DIGEST_SIZE)
"""The section before sealing."""


def seal(data: bytes) -> bytes:
    """The object with its digest filled in. Raises `ElfError` where it has no section for it."""
    at = _place(data, sections(data))
    return data[:at] + _digest(data, at) + data[at + DIGEST_SIZE :]


def is_sealed(data: bytes, found: list[Section]) -> bool:
    """Whether the digest in `data`, whose sections are `found`, is that of `data`. Raises `ElfError`."""
    at = _place(data, found)
    return data[at : at + DIGEST_SIZE] == _digest(data, at)


def _place(data: bytes, found: list[Section]) -> int:
    section = only(found, DIGEST_SECTION)
    if not contents(data, section).startswith(BLANK[:-DIGEST_SIZE]) or section.size != len(BLANK):
        raise ElfError(f"its section {DIGEST_SECTION} is malformed")
    return section.offset + len(BLANK) - DIGEST_SIZE


def only(found: list[Section], name: str) -> Section:
    """The one section of that name. Raises `ElfError` where there is none or more than one."""
    matching = [s for s in found if s.name == name]
    if len(matching) != 1:
        raise ElfError(f"it has {'no' if not matching else 'more than one'} section {name}")
    return matching[0]


def _digest(data: bytes, at: int) -> bytes:
    digest = hashlib.sha256(data[:at])
    digest.update(bytes(DIGEST_SIZE))
    digest.update(data[at + DIGEST_SIZE :])
    return digest.digest()
