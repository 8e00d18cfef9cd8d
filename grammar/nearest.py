"""Did you mean: the nearest of some words by edit distance."""

from __future__ import annotations

from collections.abc import Iterable

MAX_LENGTH = 64


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a slip of the finger turns into `word`, the first of equals; None if none is near."""
    if not word or len(word) > MAX_LENGTH:
        return None
    folded = word.lower()
    letters = set(folded)
    best, best_distance = None, 1 + max(1, len(word) // 3)
    for candidate in candidates:
        limit = best_distance - 1
        if abs(len(candidate) - len(word)) > limit or len(letters ^ set(candidate.lower())) > 2 * limit:
            continue
        distance = edit_distance(folded, candidate.lower(), limit)
        if distance < min(best_distance, len(candidate)):
            best, best_distance = candidate, distance
            if distance == 0:
                break
    return best


def edit_distance(a: str, b: str, limit: int) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours; anything above `limit` may come back as limit + 1."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            cost = min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            new.append(cost)
        if min(new) > limit and min(row) > limit:
            return limit + 1
        before, row = row, new
    return row[-1]
