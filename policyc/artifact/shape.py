"""Reading untrusted JSON: each access checks the type and names the place in the document that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Any, TypeVar, cast

E = TypeVar("E", bound=Enum)


class ShapeError(ValueError):
    """A document that is not of the expected shape; the message has the path of the value."""


class Node:
    """A JSON value and where it stands. Every method raises `ShapeError` where the value is something else."""

    __slots__ = ("_key", "_parent", "value")

    def __init__(self, value: Any, parent: Node | None = None, key: str | int = "") -> None:
        self.value = value
        self._parent = parent
        self._key = key

    @property
    def path(self) -> str:
        """The way to the value, for example `rules[3].span`."""
        if self._parent is None:
            return ""
        if isinstance(self._key, int):
            return f"{self._parent.path}[{self._key}]"
        return f"{self._parent.path}.{self._key}".lstrip(".")

    def error(self, expected: str) -> ShapeError:
        return ShapeError(f"{self.path or 'the document'}: expected {expected}")

    def get(self, key: str) -> Node:
        node = self.optional(key)
        if node is None:
            raise Node(None, self, key).error("a value, found none")
        return node

    def optional(self, key: str) -> Node | None:
        """The member `key`, or None where it is absent or null."""
        if not isinstance(self.value, dict):
            raise self.error("an object")
        value = self.value.get(key)
        return None if value is None else Node(value, self, key)

    def members(self) -> Iterator[tuple[str, Node]]:
        if not isinstance(self.value, dict):
            raise self.error("an object")
        for key, value in self.value.items():
            yield key, Node(value, self, key)

    def items(self) -> list[Node]:
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [Node(value, self, index) for index, value in enumerate(self.value)]

    def fixed(self, count: int) -> list[Node]:
        """The members of a list that has exactly `count` of them."""
        items = self.items()
        if len(items) != count:
            raise self.error(f"a list of {count}")
        return items

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.error("a string")
        if not self.value.isascii():
            try:
                self.value.encode()
            except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
                raise self.error("a string of Unicode characters") from None
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.error("true or false")
        return self.value

    def integer(self, low: int = 0, high: int = 2**32 - 1) -> int:
        """An integer between `low` and `high`, both included."""
        value = self.value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(f"an integer from {low} to {high}")
        return value

    def hexadecimal(self, digits: int) -> int:
        """An unsigned integer as exactly `digits` lower-case hexadecimal digits."""
        text = self.text()
        if len(text) != digits or not set(text) <= set("0123456789abcdef"):
            raise self.error(f"{digits} hexadecimal digits")
        return int(text, 16)

    def word(self, enum: type[E]) -> E:
        """The member of `enum` whose lower-case name, or string value, this is."""
        text = self.text()
        member = _words(enum).get(text)
        if member is None:
            raise self.error(f"one of {', '.join(_words(enum))}")
        return cast(E, member)


@cache
def _words(enum: type[Enum]) -> dict[str, Enum]:
    return {m.value if isinstance(m.value, str) else m.name.lower(): m for m in enum}
