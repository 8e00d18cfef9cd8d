"""The suite itself: wrong compilers, each of which the differential streams must tell from the right one."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

import pytest

from policyc.artifact.reader import Artifact
from policyc.codegen import http, http_verdict
from policyc.kernel_engine import compile_policy
from policyc.model import Action, HttpBlock, HttpEntry, PolicySet
from tests.l7.differential import Case, Kernel
from tests.l7.differential_case import ground, of_corpus
from tests.l7.place import Scene
from tests.l7.random_splits import every_byte
from tests.reference import http_corpus as corpus
from tests.wrong_compilers import rules

pytestmark = pytest.mark.bpf

CASES = [of_corpus(case) for case in corpus.CASES]
GROUND = ground(CASES)


def streams() -> list[Case]:
    """The corpus in its own pieces, a part of it byte by byte."""
    cut = [case for number, case in enumerate(CASES) if number % 3 == 0 or "limit" in case.name]
    return [*CASES, *itertools.chain.from_iterable(map(every_byte, cut))]


# --- wrong compilers: the right one, of another policy ------------------------------------------------------------------


def blocks(change: Callable[[HttpBlock], HttpBlock]) -> Callable[[PolicySet], PolicySet]:
    return rules(lambda rule: rule if rule.http is None else replace(rule, http=change(rule.http)))


def entries(change: Callable[[HttpEntry], HttpEntry]) -> Callable[[PolicySet], PolicySet]:
    return blocks(lambda b: replace(b, entries=tuple(map(change, b.entries))))


def _needs_all(entry: HttpEntry) -> HttpEntry:
    """Absent conditions as if they only wanted no such line."""
    return replace(entry, conditions=tuple(c for c in entry.conditions if not c.absent))


POLICIES: dict[str, Callable[[PolicySet], PolicySet]] = {
    "lets heads be a byte longer": blocks(lambda b: replace(b, limit=b.limit + 1)),
    "takes deny entries for allow entries": entries(lambda e: replace(e, action=Action.ALLOW)),
    "enforces audited blocks": blocks(lambda b: replace(b, audit=False)),
    "forgets absent": entries(_needs_all),
    "forgets hosts": entries(lambda e: replace(e, hosts=())),
}


# --- wrong compilers: other code -------------------------------------------------------------------------------------------

LENGTH_LINE = "self._only_line(Framing.LENGTH, Saw.CONTENT_LENGTH)"
SOURCES: dict[str, tuple[ModuleType, str, str]] = {
    "takes nine digits of a chunk's size": (http, "LENGTH_DIGITS, CHUNK_DIGITS = 19, 8", "LENGTH_DIGITS, CHUNK_DIGITS = 19, 9"),
    "decodes escapes of /": (http, 'f.eq(value, ord("/"))', "f.eq(value, 1)"),
    "takes the last Content-Length": (http, LENGTH_LINE, 'self.stream.raise_("framing", Framing.LENGTH)'),
    "does not look at trailers": (http, 'f.cmp("<=", number, ENCODING)', 'f.cmp("<=", number, 0)'),
    "looks for the limit a byte late": (http, 'f.cmp(">", s.get("head"), s.get("limit"))', 'f.cmp(">", s.get("head"), f.add(s.get("limit"), 1))'),
    "goes on at the limit": (http, 'f.cmp(">=", s.get("head"), s.get("limit"))', 'f.cmp(">", s.get("head"), s.get("limit"))'),
    "takes any byte for the LF of a line": (
        http, "        with f.if_(f.ne(self.byte, LF)):\n            self._bad_value()\n        self._next_line()",
        "        with f.if_(f.eq(self.byte, 0)):\n            self._bad_value()\n        self._next_line()",
    ),
    "forgets Upgrade": (http_verdict, "needs.set(ENTRY_UPGRADE)", "needs.set(0)"),
    "forgets bodies": (http_verdict, "needs.set(f.or_(needs.get(), ENTRY_BODY))", "needs.set(needs.get())"),
    "needs one line of several": (http_verdict, "by_all = f.and_(held, unfailed)", "by_all = held"),
    "asks entries of other rules": (http_verdict, "ours = f.and_(paths, rules.get())", "ours = paths"),
    "lets an allow entry win": (http_verdict, "f.store(search, 1, I32, _DENIES)", "f.store(search, 0, I32, _DENIES)"),
    "takes the later of entry and plain rule": (http_verdict, 'f.cmp("<", plain, rule)', 'f.cmp(">", plain, rule)'),
}  # fmt: skip


@contextmanager
def other_source(module: ModuleType, old: str, new: str) -> Iterator[None]:
    source = inspect.getsource(module)
    assert source.count(old) == 1, old
    kept = dict(vars(module))
    try:
        exec(compile(source.replace(old, new), module.__file__ or "", "exec"), vars(module))
        yield
    finally:
        vars(module).update(kept)


def caught(scene: Scene, compiler: Callable[[PolicySet], Artifact]) -> bool:
    try:
        with Kernel(scene, compiler=compiler).loaded(GROUND) as loaded:
            return bool(loaded.play(streams()).differences)
    finally:
        scene.rest()


@pytest.mark.parametrize("name", POLICIES)
def test_a_compiler_of_another_policy_is_caught(name: str, on_loopback: Scene) -> None:
    assert caught(on_loopback, lambda policy: compile_policy(POLICIES[name](policy)))


@pytest.mark.parametrize("name", SOURCES)
def test_a_wrong_code_generator_is_caught(name: str, on_loopback: Scene) -> None:
    with other_source(*SOURCES[name]):
        assert caught(on_loopback, compile_policy)


def test_the_right_one_is_not_caught(on_loopback: Scene) -> None:
    assert not caught(on_loopback, compile_policy)
