"""Values of JSON in messages."""

from __future__ import annotations

import json

MOST = 80  # characters


def quoted(value: object) -> str:
    """A value for a message: JSON, ASCII, short."""
    try:
        text = json.dumps(value, ensure_ascii=True, default=str)
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= MOST else text[: MOST - 3] + "..."
