"""Reading an artifact: every check a file must pass before libbpf, the evaluator or a person sees what is in it.

In this order: an ELF object for BPF, whole; the sections of ours; the seal (against accidents only, see `seal`); what
libbpf believes unseen (`btf`); the format version; sections that a reader must know; the shape of the manifest.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from policyc.artifact import btf, policy_json
from policyc.artifact import manifest as manifests
from policyc.artifact.elf import ElfError, Section, contents, sections
from policyc.artifact.manifest import MANIFEST_SECTION, Manifest
from policyc.artifact.seal import is_sealed, only
from policyc.artifact.shape import Node, ShapeError
from policyc.collector import paused
from policyc.diagnostics import OperationError
from policyc.model import PolicySet

SIZE_LIMIT = 512 << 20  # bytes
MANIFEST_LIMIT = 256 << 20
KNOWN_SECTIONS = frozenset(manifests.MANDATORY)
RECOMPILE = "compile the policy again with `policyc compile`, or fetch the file again"


@dataclass(frozen=True)
class Artifact:
    """A checked artifact. `object` are the bytes for libbpf; `name` is where it came from, for messages."""

    name: str
    object: bytes
    manifest: Manifest

    @cached_property
    def policy(self) -> PolicySet:
        """The checked policy. Raises `OperationError` where the manifest holds another shape."""
        try:
            policy = policy_json.decode(Node({"policy": self.manifest.policy}).get("policy"))
        except (ShapeError, RecursionError) as error:
            _refuse(self.name, f"its manifest is malformed: {_plain(str(error))}")
        known = {rule.ref for rule in policy.rules}
        for rule in self.manifest.rules:
            if rule.ref not in known:
                _refuse(self.name, f"its manifest has a rule {_plain(rule.ref)} that its policy does not have")
        return policy


def read(source: bytes | str | os.PathLike[str]) -> Artifact:
    """Reads a file, or bytes that are one. Raises `OperationError` (exit code 2) for everything that is no artifact."""
    if isinstance(source, bytes):
        return _check("the artifact", source)
    name = _plain(os.fspath(source))
    return _check(name, _load(Path(source), name))


def _load(path: Path, name: str) -> bytes:
    try:
        # Opening a FIFO without a writer would block.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OperationError(f"{name} is not a regular file", "give a file that `policyc compile` wrote")
            if status.st_size > SIZE_LIMIT:
                _refuse(name, f"it is larger than {SIZE_LIMIT >> 20} MiB")
            return file.read()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a file name"
        raise OperationError(f"{name} cannot be read: {reason}", "give a file that `policyc compile` wrote") from None


def _check(name: str, data: bytes) -> Artifact:
    try:
        found = sections(data)
        if not any(s.name == MANIFEST_SECTION for s in found):
            _refuse(name, "it is a BPF object that policyc did not make", "give a file that `policyc compile` wrote")
        text = contents(data, only(found, MANIFEST_SECTION))
        if not is_sealed(data, found):
            _refuse(name, "it was altered or truncated after it was compiled (its digest does not match)")
        for section in found:
            if section.name == ".BTF":
                btf.check(contents(data, section))
        if len(text) > MANIFEST_LIMIT:
            _refuse(name, f"its manifest is larger than {MANIFEST_LIMIT >> 20} MiB")
        with paused():
            document = _parse(text)
            _check_version(name, document)
            _check_mandatory(name, document, found)
            return Artifact(name, data, manifests.from_json(document))
    except (ElfError, ShapeError) as error:
        _refuse(name, _plain(str(error)) if isinstance(error, ElfError) else f"its manifest: {_plain(str(error))}")


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text.decode(), parse_constant=_constant)
    except (ValueError, RecursionError):
        raise ShapeError("it is no JSON") from None


def _constant(word: str) -> NoReturn:
    raise ValueError(word)


def _check_version(name: str, document: Any) -> None:
    major, minor = manifests.read_version(document)
    ours, newest = manifests.VERSION
    mine = f"this policyc reads up to {ours}.{newest}"
    if major > ours or (major == ours and minor > newest):
        _refuse(name, f"its format {major}.{minor} is newer than this policyc ({mine})", "use a newer policyc")
    if major < ours - 1:
        _refuse(name, f"its format {major}.{minor} is too old ({mine})")


def _check_mandatory(name: str, document: Any, found: list[Section]) -> None:
    present = {s.name for s in found}
    for node in Node(document).get("mandatory").items():
        section = node.text()
        if section not in KNOWN_SECTIONS:
            _refuse(
                name, f"it needs section {_plain(section)}, which this policyc does not know", "use a newer policyc"
            )
        if section not in present:
            _refuse(name, f"its section {_plain(section)} is missing")


def _plain(text: str) -> str:
    """Text from a file for a message: control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _refuse(name: str, reason: str, help: str = RECOMPILE) -> NoReturn:
    raise OperationError(f"{name} is not a usable policyc artifact: {reason}", help, exit_code=2)
