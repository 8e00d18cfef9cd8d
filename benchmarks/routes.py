"""Routes of an HTTP API, and the same rules for each contender: a block of a policy, and permissions of Envoy's RBAC filter."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHAPES = (
    (("GET",), "/api/v1/service{n}/items/*"),
    (("GET", "POST"), "/api/v1/service{n}/orders/*/lines/**"),
    (("GET",), "/api/v1/service{n}/search-*"),
    (("PUT", "DELETE"), "/api/v1/service{n}/items/*/tags/*"),
    (("POST",), "/api/v1/service{n}/events"),
)
ASKED = "/api/v1/service{n}/items/12345"  # what clients ask for


@dataclass(frozen=True)
class Route:
    """`path` is a glob as a policy has it."""

    methods: tuple[str, ...]
    path: str

    @property
    def regex(self) -> str:
        """The same path as an anchored regular expression (RE2)."""
        text = (
            re.escape(self.path)
            .replace(r"/\*\*", r"(/[^/;]+)*/?")
            .replace(r"/\*", r"/[^/;]+")
            .replace(r"\*", r"[^/;]*")
        )
        return text.replace("\\-", "-")


def routes(count: int) -> list[Route]:
    found = (Route(methods, path.format(n=n)) for n in itertools.count() for methods, path in SHAPES)
    return list(itertools.islice(found, count))


def asked(count: int) -> str:
    """A path that a route in the middle of so many allows to GET."""
    return ASKED.format(n=count // 2 // len(SHAPES))


def block(made: Sequence[Route]) -> str:
    """`http { … }`."""
    return "http {\n" + "".join(f'      {", ".join(r.methods)} "{r.path}"\n' for r in made) + "    }"


def permissions(made: Sequence[Route]) -> list[dict[str, Any]]:
    """Of `envoy.config.rbac.v3.Policy`: any of these allows."""
    return [
        {"and_rules": {"rules": [_methods(route.methods), {"url_path": {"path": {"safe_regex": {"regex": route.regex}}}}]}}
        for route in made
    ]  # fmt: skip


def _methods(methods: Sequence[str]) -> dict[str, Any]:
    rules = [{"header": {"name": ":method", "string_match": {"exact": method}}} for method in methods]
    return rules[0] if len(rules) == 1 else {"or_rules": {"rules": rules}}
