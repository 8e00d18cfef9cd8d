"""From an endpoint's labels to its identity record, and the slots in which records are shared."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache

from policyc.artifact.layout import IdentityFlag
from policyc.artifact.manifest import Manifest
from policyc.diagnostics import OperationError
from policyc.model import Op, Requirement, Selector

CACHED_RECORDS = 4096  # replicas of a workload have the same labels
HOST_SUBJECT = None  # `subject` of what the manifest says of `host`


def holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """Semantics section 1: `!=` and `not in` also hold when the key is absent."""
    value = labels.get(requirement.key)
    match requirement.op:
        case Op.EQ | Op.IN:
            return value is not None and value in requirement.values
        case Op.NE | Op.NOT_IN:
            return value is None or value not in requirement.values
        case Op.EXISTS:
            return value is not None
        case Op.NOT_EXISTS:
            return value is None


class Matcher:
    """Finds the selectors that select a set of labels, asking only those that one of its labels makes possible.

    Each selector stands once: under a (key, value) it demands, else under a key it demands, else among those always
    asked. Where it demands several, under the one that fewest selectors share."""

    def __init__(self, selectors: Iterable[Selector]) -> None:
        self._selectors = tuple(selectors)
        self._by_value: dict[tuple[str, str], list[int]] = {}
        self._by_key: dict[str, list[int]] = {}
        self._always: list[int] = []
        shared = Counter(
            (r.key, value)
            for s in self._selectors
            for r in s.requirements
            if r.op in (Op.EQ, Op.IN)
            for value in r.values
        )
        for index, selector in enumerate(self._selectors):
            self._file(index, selector, shared)

    def _file(self, index: int, selector: Selector, shared: Counter[tuple[str, str]]) -> None:
        demands = [r for r in selector.requirements if r.op in (Op.EQ, Op.IN)]
        if demands:
            rarest = demands[0]
            if len(demands) > 1:
                rarest = min(demands, key=lambda r: sum(shared[r.key, v] for v in r.values))
            for value in dict.fromkeys(rarest.values):
                self._by_value.setdefault((rarest.key, value), []).append(index)
            return
        key = next((r.key for r in selector.requirements if r.op is Op.EXISTS), None)
        if key is None:
            self._always.append(index)
        else:
            self._by_key.setdefault(key, []).append(index)

    def match(self, labels: Mapping[str, str]) -> list[int]:
        """Indices of the selectors that select `labels`, ascending."""
        candidates = list(self._always)
        for label in labels.items():
            candidates += self._by_value.get(label, ())
            candidates += self._by_key.get(label[0], ())
        return sorted(i for i in candidates if all(holds(r, labels) for r in self._selectors[i].requirements))


class IdentityBuilder:
    """Makes identity records (`layout.IdentityLayout`) under one artifact. `key` is secret, random for each load:
    with it nobody can choose two label values that stand for the same number in `same(…)`."""

    def __init__(self, manifest: Manifest, key: bytes) -> None:
        self._layout = manifest.identity_layout
        self._selectors = manifest.selectors
        self._same_keys = [
            (k, hashlib.blake2b(k.encode("utf-8", "surrogatepass")).digest()) for k in manifest.same_keys
        ]
        self._key = key
        self._groups: dict[int | None, list[tuple[int, int]]] = {}
        for index, group in enumerate(manifest.groups):
            self._groups.setdefault(group.subject, []).append((group.direction * 3 + group.tier, index))
        self._recent = lru_cache(CACHED_RECORDS)(self._record)
        self._flags: dict[int | None, int] = {}
        for selected in manifest.selected:
            flags = IdentityFlag.SELECTED | IdentityFlag.SELECTED_AUDIT
            self._flags[selected.subject] = self._flags.get(selected.subject, 0) | (
                flags if selected.enforced else IdentityFlag.SELECTED_AUDIT
            )

    @cached_property
    def _matcher(self) -> Matcher:
        """Made when the first endpoint comes."""
        return Matcher(self._selectors)

    @property
    def size(self) -> int:
        return self._layout.size

    def nobody(self) -> bytes:
        """The record of slot 0."""
        return bytes(self._layout.size)

    def host(self) -> bytes:
        """The record of `host`, which no selector selects."""
        return self._pack([], [HOST_SUBJECT], [0] * len(self._same_keys))

    def record(self, labels: Mapping[str, str], name: str) -> bytes:
        """The record of endpoint `name` with these labels. Raises `OperationError` where the program has no room for it."""
        try:
            return self._recent(frozenset(labels.items()))
        except ValueError as error:
            raise OperationError(
                f"endpoint {name} cannot be told apart: {error}",
                "let fewer identities overlap in one endpoint's labels",
            ) from None

    def _record(self, items: frozenset[tuple[str, str]]) -> bytes:
        labels = dict(items)
        matched = self._matcher.match(labels)
        same = [self._number(salt, labels[k]) if k in labels else 0 for k, salt in self._same_keys]
        return self._pack(matched, matched, same)

    def selectors(self, labels: Mapping[str, str]) -> list[int]:
        """Indices of the selectors that select `labels`, ascending."""
        return self._matcher.match(labels)

    def _pack(self, peers: list[int], subjects: Iterable[int | None], same: list[int]) -> bytes:
        flags, groups = 0, [[] for _ in range(6)]  # type: tuple[int, list[list[int]]]
        for subject in subjects:
            flags |= self._flags.get(subject, 0)
            for place, group in self._groups.get(subject, ()):
                groups[place].append(group)
        for group_list in groups:
            group_list.sort()
        return self._layout.pack(flags, peers, groups, same)

    def _number(self, salt: bytes, value: str) -> int:
        text = value.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=8, key=self._key, salt=salt[:16]).digest()
        return int.from_bytes(digest, "little") or 1


class Numbers:
    """Hands out numbers from `first` up to (not with) `limit`; freed ones come again last, the longest free first.

    A number that was free for long is in nobody's cache, connection table or half-finished packet any more."""

    def __init__(self, first: int, limit: int) -> None:
        self._next = first
        self._limit = limit
        self._freed: deque[int] = deque()

    def take(self) -> int | None:
        """None where all are taken."""
        if self._next < self._limit:
            self._next += 1
            return self._next - 1
        return self._freed.popleft() if self._freed else None

    def free(self, number: int) -> None:
        self._freed.append(number)

    def state(self) -> list[int]:
        """[next, freed…]: what `restore` takes."""
        return [self._next, *self._freed]

    def restore(self, state: list[int]) -> None:
        self._next, self._freed = state[0], deque(state[1:])


class Slots:
    """Identity slots shared by equal records, with reference counts. A record in use is never modified in place.

    `write(slot, record)` puts it into the map."""

    def __init__(self, numbers: Numbers, write: Callable[[int, bytes], None]) -> None:
        self._numbers = numbers
        self._write = write
        self._slot_of: dict[bytes, int] = {}
        self._uses: dict[int, int] = {}
        self._record_of: dict[int, bytes] = {}

    def acquire(self, record: bytes) -> int:
        """A slot that holds `record`, written if it is new. Raises `OperationError` where no slot is left."""
        slot = self._slot_of.get(record)
        if slot is None:
            slot = self._numbers.take()
            if slot is None:
                raise OperationError(
                    "table identities is full: too many different sets of labels",
                    "load the policy again: the tables are sized for the endpoints there are then",
                )
            self._write(slot, record)
            self._enter(slot, record)
        self._uses[slot] += 1
        return slot

    def release(self, slot: int) -> None:
        """Gives one reference back."""
        self._uses[slot] -= 1
        if not self._uses[slot]:
            del self._slot_of[self._record_of.pop(slot)], self._uses[slot]
            self._numbers.free(slot)

    def adopt(self, slot: int, record: Callable[[], bytes]) -> None:
        """Takes note of one reference to a slot that an earlier process has written."""
        if slot not in self._uses:
            self._enter(slot, record())
        self._uses[slot] += 1

    def _enter(self, slot: int, record: bytes) -> None:
        self._slot_of[record], self._record_of[slot], self._uses[slot] = slot, record, 0
