"""The regex dialect (docs/regex.md): linear, over bytes, anchored at both ends."""

from __future__ import annotations

from typing import NoReturn

from policyc.ir.automata.expression import (
    ANY_BYTE,
    Alternation,
    Bytes,
    Concat,
    Expression,
    Repeat,
    byte_set,
    literal,
    positions,
)

MAX_REPETITIONS = 1000
MAX_POSITIONS = 10_000  # bytes to match once repetitions are written out
MAX_DEPTH = 50  # groups in groups

DIGITS = byte_set(range(0x30, 0x3A))
WORD = DIGITS | byte_set(range(0x41, 0x5B)) | byte_set(range(0x61, 0x7B)) | 1 << 0x5F
SPACE = byte_set(b" \t\n\r\f\v")
SETS = {
    "d": DIGITS,
    "D": ANY_BYTE & ~DIGITS,
    "w": WORD,
    "W": ANY_BYTE & ~WORD,
    "s": SPACE,
    "S": ANY_BYTE & ~SPACE,
}
CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09}
ANCHORED = "a regex is anchored at both ends; leave it out, and write `.*` where anything may stand"
BOUNDARIES = {
    "b": "word boundaries",
    "B": "word boundaries",
    "A": "anchors",
    "Z": "anchors",
    "z": "anchors",
    "G": "anchors",
}
GROUPS = {
    "=": "lookahead",
    "!": "lookahead",
    "<=": "lookbehind",
    "<!": "lookbehind",
    "P<": "named groups",
    "P=": "backreferences",
    "P>": "named groups",
    "<": "named groups",
    ">": "atomic groups",
    "#": "comments",
    "(": "conditions",
    "|": "branch resets",
}


class RegexError(Exception):
    """A regex that the dialect does not have. `position`: code points from the beginning of its text; `help`: how to mend it."""

    def __init__(self, message: str, position: int, help: str | None = None) -> None:
        super().__init__(f"{message} (at {position})")
        self.message = message
        self.position = position
        self.help = help


def parse_regex(text: str) -> Expression:
    """The expression of a regex. Raises RegexError."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def whole(self) -> Expression:
        result = self.alternation()
        if self.at < len(self.text):
            self.fail("a `)` without its `(`", self.at, r"write `\)` for the byte")
        if positions(result) > MAX_POSITIONS:
            self.fail(*_too_large(0))
        return result

    def fail(self, message: str, position: int, help: str | None = None) -> NoReturn:
        raise RegexError(message, position, help)

    def peek(self, length: int = 1) -> str:
        return self.text[self.at : self.at + length]

    def take(self, expected: str) -> bool:
        if not self.text.startswith(expected, self.at):
            return False
        self.at += len(expected)
        return True

    def alternation(self) -> Expression:
        branches = [self.branch()]
        while self.take("|"):
            branches.append(self.branch())
        return branches[0] if len(branches) == 1 else Alternation(tuple(branches))

    def branch(self) -> Expression:
        parts: list[Expression] = []
        while self.peek() not in ("", "|", ")"):
            start = self.at
            parts.append(self.quantified(self.atom(), start))
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def quantified(self, part: Expression, start: int) -> Expression:
        at = self.at
        bounds = self.quantifier()
        if bounds is None:
            return part
        if self.peek() == "?":
            self.fail("lazy quantifiers are not supported", at, "leave out the `?`: what matches is the same")
        if self.peek() == "+":
            self.fail("possessive quantifiers are not supported", at, "leave out the second `+`")
        if self.peek() in ("*", "{"):
            self.fail("a quantifier follows a quantifier", self.at, "put the part in a group, `( )`")
        result = Repeat(part, *bounds)
        if positions(result) > MAX_POSITIONS:
            self.fail(*_too_large(start))
        return result

    def quantifier(self) -> tuple[int, int | None] | None:
        if self.take("*"):
            return 0, None
        if self.take("+"):
            return 1, None
        if self.take("?"):
            return 0, 1
        if self.peek() != "{":
            return None
        return self.bounds()

    def bounds(self) -> tuple[int, int | None]:
        start = self.at
        end = self.text.find("}", start)
        least, comma, most = self.text[start + 1 : max(end, start + 1)].partition(",")
        wrong = not _is_number(least) or (most != "" and not _is_number(most))
        if end < 0 or wrong:
            self.fail("`{` does not begin a repetition", start, r"write `{m}`, `{m,}` or `{m,n}`, or `\{` for the byte")
        if len(least) > 9 or len(most) > 9 or int(least) > MAX_REPETITIONS or int(most or 0) > MAX_REPETITIONS:
            self.fail(
                f"more than {MAX_REPETITIONS} repetitions", start, "use `*` or `+` where there is no need to count"
            )
        self.at = end + 1
        if not comma:
            return int(least), int(least)
        if not most:
            return int(least), None
        if int(most) < int(least):
            self.fail(
                "the bounds of the repetition are in the wrong order", start, f"write `{{{int(most)},{int(least)}}}`"
            )
        return int(least), int(most)

    def atom(self) -> Expression:
        at = self.at
        character = self.peek()
        if character == "(":
            return self.group()
        if character == "[":
            return Bytes(self.byte_class())
        if character == "\\":
            return Bytes(self.escape())
        if character in ("^", "$"):
            self.fail(f"anchors (`{character}`) are not supported", at, ANCHORED)
        if character in ("*", "+", "?", "{"):
            self.fail(f"`{character}` has nothing to repeat", at, f"write `\\{character}` for the byte")
        if character in ("]", "}"):
            self.fail(f"a `{character}` without its beginning", at, f"write `\\{character}` for the byte")
        self.at += 1
        if character == ".":
            return Bytes(ANY_BYTE)
        data = self.encoded(character, at)
        return Bytes(1 << data[0]) if len(data) == 1 else literal(data)

    def encoded(self, character: str, at: int) -> bytes:
        try:
            return character.encode()
        except UnicodeEncodeError:
            self.fail("this is no character that UTF-8 has", at)

    def group(self) -> Expression:
        start = self.at
        self.at += 1
        if self.take("?") and not self.take(":"):
            rest = next((name for mark, name in GROUPS.items() if self.text.startswith(mark, self.at)), "inline flags")
            self.fail(f"{rest} are not supported" if rest.endswith("s") else f"{rest} is not supported", start,
                      "groups are `( )` and `(?: )`")  # fmt: skip
        if self.peek() == "*":
            self.fail("verbs are not supported", start, "groups are `( )` and `(?: )`")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} groups in one another", start)
        inner = self.alternation()
        self.depth -= 1
        if not self.take(")"):
            self.fail("a `(` without its `)`", start, r"write `\(` for the byte")
        return inner

    def escape(self) -> int:
        """The set of an escape, outside of a class or in it."""
        start = self.at
        character = self.text[start + 1 : start + 2]
        self.at += 2
        if character == "":
            self.fail("a `\\` at the end", start, r"write `\\` for the byte")
        if character in SETS:
            return SETS[character]
        if character in CONTROLS:
            return 1 << CONTROLS[character]
        if character == "x":
            digits = self.peek(2)
            if len(digits) != 2 or not all(c in "0123456789abcdefABCDEF" for c in digits):
                self.fail(r"`\x` without two hex digits", start, r"write `\xHH`")
            self.at += 2
            return 1 << int(digits, 16)
        if character in BOUNDARIES:
            help = ANCHORED if BOUNDARIES[character] == "anchors" else None
            self.fail(f"{BOUNDARIES[character]} (`\\{character}`) are not supported", start, help)
        if character in "123456789" or character in ("k", "g"):
            self.fail(f"backreferences (`\\{character}`) are not supported", start)
        if character in ("p", "P", "X"):
            self.fail(f"classes of Unicode (`\\{character}`) are not supported", start, "a regex is over bytes")
        if not character.isascii():
            self.fail(f"`\\{character}` is not an escape", start, f"write `{character}`")
        if character.isalnum() or not character.isprintable():
            self.fail(f"`\\{character}` is not an escape" if character.isalnum() else "this is not an escape", start,
                      r"escapes are `\d \w \s \D \W \S \n \r \t \xHH`, and `\` before punctuation")  # fmt: skip
        return 1 << ord(character)

    def byte_class(self) -> int:
        start = self.at
        self.at += 1
        negated = self.take("^")
        if self.peek() == "]":
            self.fail("an empty class", start, r"write `\]` for the byte")
        mask = 0
        while not self.take("]"):
            if self.peek() == "":
                self.fail("a `[` without its `]`", start, r"write `\[` for the byte")
            mask |= self.class_part()
        return ANY_BYTE & ~mask if negated else mask

    def class_part(self) -> int:
        start = self.at
        first = self.class_byte()
        if self.peek() != "-" or self.peek(2) in ("-", "-]"):
            return first
        self.at += 1
        last = self.class_byte()
        if first.bit_count() != 1 or last.bit_count() != 1:
            self.fail("a range from or to a set", start, r"a range has a byte at either end; write `\-` for the byte")
        low, high = first.bit_length() - 1, last.bit_length() - 1
        if high < low:
            self.fail("the ends of the range are in the wrong order", start)
        return byte_set(range(low, high + 1))

    def class_byte(self) -> int:
        character = self.peek()
        if character == "\\":
            return self.escape()
        if character == "[" and self.peek(2) in ("[:", "[.", "[="):
            self.fail(
                "classes by name are not supported", self.at, r"write `\[` for the byte, `\d` or `a-z` for a class"
            )
        if not character.isascii():
            help = f"classes are of bytes; write `(?:{character}|…)`"
            self.fail(f"`{character}` is not ASCII and cannot stand in a class", self.at, help)
        self.at += 1
        return 1 << ord(character)


def _is_number(text: str) -> bool:
    return text != "" and all(c in "0123456789" for c in text)


def _too_large(position: int) -> tuple[str, int, str]:
    message = f"with this the regex stands for more than {MAX_POSITIONS:,} bytes"
    return message, position, "repeat less, or use `*`"
