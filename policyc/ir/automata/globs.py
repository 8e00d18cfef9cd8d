"""Globs as expressions: of paths (`*` a segment or part of one, `**` segments) and of hosts (`*` a label or part of one, `**` labels)."""

from __future__ import annotations

from policyc.ir.automata.expression import ANY_BYTE, EMPTY, Bytes, Concat, Expression, Repeat, byte_set, literal

IN_SEGMENT = Bytes(ANY_BYTE & ~byte_set(b"/;"))
IN_LABEL = Bytes(ANY_BYTE & ~byte_set(b"."))


def path_glob(text: str) -> Expression:
    """The whole path, decoded. `*` alone in its segment is one or more bytes, else zero or more; `**` as a whole segment is any number of
    segments; a final `/**` also matches the path without it. Wildcards match neither `/` nor `;`. The glob `*` is the path `*`."""
    if text == "*":
        return literal(b"*")
    segments = text.split("/")
    if segments[-1] == "**" and len(segments) > 1:
        segments.pop()
        # The path without it, with a `/` at its end, or with segments, the last of which may be empty.
        tail: Expression = Repeat(Concat((literal(b"/"), Repeat(IN_SEGMENT, 0, None))), 0, None)
        if segments == [""]:  # `/**`: a path begins with `/`
            tail = Repeat(Concat((literal(b"/"), Repeat(IN_SEGMENT, 0, None))), 1, None)
    else:
        tail = EMPTY
    parts: list[Expression] = []
    for number, segment in enumerate(segments):
        if segment == "**":
            parts.append(Repeat(Concat((*_between(number), Repeat(IN_SEGMENT, 1, None))), 0, None))
        else:
            parts += (*_between(number), _wild(segment, IN_SEGMENT))
    return _joined([*parts, tail])


def host_glob(text: str) -> Expression:
    """A host, lower-case. `*` alone in its label is one or more bytes, else zero or more; `**` as a whole label is one or more labels."""
    parts: list[Expression] = []
    for number, label in enumerate(text.lower().split(".")):
        if number:
            parts.append(literal(b"."))
        if label == "**":
            some = Repeat(IN_LABEL, 1, None)
            parts += (some, Repeat(Concat((literal(b"."), some)), 0, None))
        else:
            parts.append(_wild(label, IN_LABEL))
    return _joined(parts)


def _between(number: int) -> tuple[Expression, ...]:
    return (literal(b"/"),) if number else ()


def _wild(text: str, one: Bytes) -> Expression:
    if text == "*":
        return Repeat(one, 1, None)
    parts: list[Expression] = []
    for number, piece in enumerate(text.split("*")):
        if number:
            parts.append(Repeat(one, 0, None))
        parts.append(literal(piece.encode()))
    return _joined(parts)


def _joined(parts: list[Expression]) -> Expression:
    flat: list[Expression] = []
    for part in parts:
        flat += part.parts if isinstance(part, Concat) else (part,)
    return Concat(tuple(flat))
