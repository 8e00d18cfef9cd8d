"""The IR's text form: what `--emit ir`, `--emit tables` and `--print-between-passes` print, and the pass tests are written in.

`parse_module(print_module(m)) == m`. Parsing does not verify; `policyc.ir.verify` does."""

from __future__ import annotations

from policyc.ir import text_flat, text_tables
from policyc.ir.flat import Module
from policyc.ir.tables import Tables
from policyc.ir.text_lines import TextError, lines

__all__ = ["TextError", "parse_module", "print_module"]


def print_module(module: Module | Tables) -> str:
    """The module's text, a newline at its end."""
    printed = text_tables.print_tables(module) if isinstance(module, Tables) else text_flat.print_flat(module)
    return "\n".join(printed) + "\n"


def parse_module(text: str) -> Module | Tables:
    """The module of a text; the first line tells its level. Raises TextError."""
    stream = lines(text)
    header = next(stream, None)
    if header is None:
        raise TextError("the text is empty", 1)
    level = header.word()
    header.end()
    if level not in (text_flat.HEADER, text_tables.HEADER):
        header.fail(f"`{text_flat.HEADER}` or `{text_tables.HEADER}` expected, not {level!r}")
    parser = text_flat.FlatParser() if level == text_flat.HEADER else text_tables.TablesParser()
    for line in stream:
        parser.line(line)
    return parser.module
