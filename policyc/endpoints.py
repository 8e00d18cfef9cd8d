"""The endpoints file: who is registered, and this machine's addresses. YAML or JSON.

`{version: 1, host: [addresses], endpoints: [{name, addresses?, labels, cgroup?, interface?}]}`, or a bare list of
endpoints. Mistakes become diagnostics with their places, as many as there are in one run.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import stat
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from policyc.codes import as_help
from policyc.diagnostics import Diagnostic, PolicyError
from policyc.model import Endpoint, Span
from policyc.reference.world import Address
from policyc.yaml_nodes import Mapping, Node, Refused, Scalar, Sequence, parse_nodes

SIZE_LIMIT = 64 << 20  # bytes
MAX_FINDINGS = 500
MAPPED = range(0xFFFF << 32, 0x10000 << 32)  # ::ffff:0:0/96
BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
FILE_KEYS = ("version", "host", "endpoints")
ENDPOINT_KEYS = ("name", "addresses", "labels", "cgroup", "interface")
INTERFACE_LIMIT = 15  # bytes, IFNAMSIZ - 1

# code → (name, explanation)
CODES: dict[str, tuple[str, str]] = {
    "P5001": ("endpoints-unreadable", "The endpoints file cannot be read, is too large or is not UTF-8."),
    "P5002": ("endpoints-syntax", "The endpoints file is neither YAML nor JSON."),
    "P5003": (
        "endpoints-yaml-feature",
        "Anchors, aliases, tags, merge keys, several documents and deep nesting are not read: write values out.",
    ),
    "P5004": ("endpoints-shape", "A value is not of the kind that belongs there, such as a list where a text should stand."),
    "P5005": ("endpoints-version", "The file's `version` is not 1, the one this program reads."),
    "P5006": ("endpoints-unknown-key", "A key that the file's format does not have."),
    "P5007": ("endpoints-duplicate-key", "A mapping has a key twice; which value counts would be a guess."),
    "P5008": ("endpoints-missing-key", "A key that must be there is not: `version`, `endpoints`, `name` or `labels`."),
    "P5009": (
        "endpoints-not-a-string",
        "Names, label keys and label values are texts. YAML takes a plain `true`, `80` or `1.10` for something else: quote it.",
    ),
    "P5010": (
        "endpoints-bad-name",
        "An endpoint's name is empty, too long, the word `host`, or an address, so that flows could not tell it apart.",
    ),
    "P5011": ("endpoints-duplicate-name", "Two endpoints have one name."),
    "P5012": (
        "endpoints-bad-address",
        "Not an IPv4 or IPv6 address. Prefixes and zones (`%eth0`) do not belong here: an endpoint has single addresses.",
    ),
    "P5013": ("endpoints-mapped-address", "An IPv4-mapped IPv6 address; write the IPv4 address it stands for."),
    "P5014": ("endpoints-address-held", "An address belongs to at most one endpoint; this one is held already."),
    "P5015": ("endpoints-unreachable", "An endpoint has neither an address nor a cgroup, so that no packet could be its own."),
    "P5016": ("endpoints-control-character", "Control characters (also those that turn the writing direction) are refused in texts."),
    "P5017": ("endpoints-bad-attachment", "A `cgroup` or `interface` that cannot exist."),
    "P5018": ("endpoints-attachment-held", "Two endpoints have one interface or one cgroup."),
    "P5019": ("endpoints-too-large", "The endpoints file has more than 2,000,000 values."),
    "P5020": ("endpoints-too-many-errors", "After 500 mistakes the rest of the file is not checked."),
}  # fmt: skip


@dataclass(frozen=True)
class EndpointsFile:
    """`host`: this machine's addresses besides loopback. Both in the order of the file."""

    host: tuple[Address, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True)
class LoadedEndpoints:
    """`file` is None if any diagnostic is an error. `sources`: file name → text, for the renderer."""

    file: EndpointsFile | None
    diagnostics: list[Diagnostic]
    sources: dict[str, str] = field(default_factory=dict)


def load(path: str) -> LoadedEndpoints:
    """Read and check a file; `path` is also its name in diagnostics."""
    try:
        data = _read(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        return LoadedEndpoints(None, [_unreadable(f"cannot read {path}: {reason}")])
    if data is None:
        return LoadedEndpoints(None, [_unreadable(f"{path} is not a regular file")])
    if len(data) > SIZE_LIMIT:
        return LoadedEndpoints(None, [_unreadable(f"{path} is larger than {SIZE_LIMIT >> 20} MiB")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return LoadedEndpoints(None, [_unreadable(f"{path} is not UTF-8 (byte {error.start + 1})")])
    file, diagnostics = parse(text, path)
    return LoadedEndpoints(file, diagnostics, {path: text})


def _read(path: str) -> bytes | None:
    """At most a byte more than the limit; None for what is not a regular file. Raises OSError, ValueError."""
    # Opening a FIFO without a writer would block.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return None
        return stream.read(SIZE_LIMIT + 1)


def load_or_raise(path: str) -> EndpointsFile:
    """Like `load`; raises PolicyError with the diagnostics if there is an error."""
    loaded = load(path)
    if loaded.file is None:
        raise PolicyError(loaded.diagnostics, sources=loaded.sources)
    return loaded.file


def parse(text: str, file: str) -> tuple[EndpointsFile | None, list[Diagnostic]]:
    """Check a text. The file is None if there is any diagnostic; they are in the order of their places."""
    try:
        root = parse_nodes(text, file)
    except Refused as error:
        code = {"syntax": "P5002", "feature": "P5003", "size": "P5019"}[error.kind]
        return None, [_diagnostic(code, error.message, error.span)]
    checker = _Checker()
    try:
        result = checker.file(root, Span(file, 1, 1, 1, 1))
    except _TooMany:
        last = checker.found[-1].span
        checker.found.append(
            _diagnostic("P5020", "too many mistakes; the rest is not checked", last, "mend these first")
        )
    if checker.found:
        return None, sorted(checker.found, key=lambda d: d.span or Span(file, 0, 0, 0, 0))
    return result, []


def _diagnostic(
    code: str,
    message: str,
    span: Span | None,
    help: str | None = None,
    suggestion: str | None = None,
    notes: tuple[tuple[str, Span], ...] = (),
    expected: tuple[str, ...] = (),
) -> Diagnostic:
    name, explanation = CODES[code]
    return Diagnostic(code, name, "error", message, span, expected, help or as_help(explanation), suggestion, notes)


def _unreadable(message: str) -> Diagnostic:
    return _diagnostic("P5001", message, None)


def _shown(text: str) -> str:
    """A text of the file for a message: short, nothing that moves a cursor."""
    safe = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:60])
    return f"`{safe}…`" if len(text) > 60 else f"`{safe}`"


def _near(word: str, words: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word[:60], list(words), 1)), None)


def _is_control(character: str) -> bool:
    """Control characters, line separators, lone surrogates, and what turns the writing direction."""
    return character in BIDIRECTIONAL or unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")


def _kind_of(node: Node) -> str:
    match node:
        case Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
        case Scalar():
            return node.kind or "a text"


class _TooMany(Exception):
    """Enough mistakes for one run."""


class _Checker:
    """Checks nodes and collects what is wrong; what remains is only used if nothing is."""

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []
        self._names: dict[str, Span] = {}
        self._addresses: dict[Address, tuple[str, Span]] = {}
        self._attachments: dict[tuple[str, str], tuple[str, Span]] = {}

    def _add(self, diagnostic: Diagnostic) -> None:
        self.found.append(diagnostic)
        if len(self.found) == MAX_FINDINGS:
            raise _TooMany

    def _report(self, code: str, message: str, span: Span, help: str | None = None) -> None:
        self._add(_diagnostic(code, message, span, help))

    # --- shapes ---

    def file(self, root: Node | None, start: Span) -> EndpointsFile:
        if isinstance(root, Sequence):
            return EndpointsFile((), self._endpoints(root))
        if not isinstance(root, Mapping):
            what = "is empty" if root is None else f"holds {_kind_of(root)}"
            self._report(
                "P5004", f"the file {what}", start if root is None else root.span, "`[]` is a file without endpoints"
            )
            return EndpointsFile()
        values = self._keys(root, FILE_KEYS, ("version", "endpoints"), "an endpoints file")
        if "version" in values:
            self._version(values["version"])
        host = self._host(values["host"]) if "host" in values else ()
        endpoints = values.get("endpoints")
        return EndpointsFile(host, () if endpoints is None else self._endpoints(endpoints))

    def _keys(self, node: Mapping, known: tuple[str, ...], needed: tuple[str, ...], what: str) -> dict[str, Node]:
        """Values by key; unknown, repeated and missing keys are reported."""
        values: dict[str, Node] = {}
        places: dict[str, Span] = {}
        for key, value in node.pairs:
            if not isinstance(key, Scalar) or key.text not in known:
                self._unknown_key(key, known, what)
            elif key.text in values:
                self._duplicate_key(key, places[key.text])
            else:
                values[key.text], places[key.text] = value, key.span
        for name in needed:
            if name not in values:
                begin = Span(node.span.file, node.span.line, node.span.column, node.span.line, node.span.column + 1)
                self._report("P5008", f"{what} needs `{name}`", begin, _MISSING_HELP.get(name))
        return values

    def _unknown_key(self, key: Node, known: tuple[str, ...], what: str) -> None:
        if not isinstance(key, Scalar):
            self._report("P5004", f"a key must be a text, not {_kind_of(key)}", key.span)
            return
        near = _near(key.text, known)
        message = f"{what} has no {_shown(key.text)}"
        self._add(_diagnostic("P5006", message, key.span, suggestion=near, expected=known))

    def _duplicate_key(self, key: Scalar, first: Span) -> None:
        message = f"{_shown(key.text)} is given twice"
        self._add(_diagnostic("P5007", message, key.span, notes=(("first given here", first),)))

    def _version(self, node: Node) -> None:
        if not isinstance(node, Scalar) or node.kind != "a number" or node.text != "1":
            what = _shown(node.text) if isinstance(node, Scalar) else _kind_of(node)
            self._report("P5005", f"version {what} is not one this program reads", node.span, "write `version: 1`")

    def _items(self, node: Node, what: str) -> tuple[Node, ...]:
        if isinstance(node, Sequence):
            return node.items
        self._report("P5004", f"{what} must be a list, not {_kind_of(node)}", node.span)
        return ()

    # --- texts ---

    def _text(self, node: Node, what: str, *, quoted: bool = True) -> str | None:
        """A string without control characters. `quoted`: numbers and the like are mistakes."""
        if not isinstance(node, Scalar):
            self._report("P5004", f"{what} must be a text, not {_kind_of(node)}", node.span)
            return None
        if quoted and node.kind:
            help = f'quote it: "{node.text}"' if node.text else 'write "" for an empty text'
            self._report("P5009", f"{what} must be a text, but {_shown(node.text)} is {node.kind}", node.span, help)
            return None
        if any(map(_is_control, node.text)):
            self._report("P5016", f"{what} holds a control character: {_shown(node.text)}", node.span)
            return None
        return node.text

    # --- addresses ---

    def _host(self, node: Node) -> tuple[Address, ...]:
        addresses: dict[Address, None] = {}
        for item in self._items(node, "`host`"):
            address = self._address(item)
            if address is not None:
                addresses[address] = None
        return tuple(addresses)

    def _address(self, node: Node) -> Address | None:
        text = self._text(node, "an address", quoted=False)
        if text is None:
            return None
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            self._report("P5012", f"{_shown(text)} is not an address", node.span, _address_help(text))
            return None
        if isinstance(address, ipaddress.IPv4Address):
            return ("4", int(address))
        if address.scope_id is not None:
            self._report("P5012", f"{_shown(text)} has a zone", node.span, "leave out what begins with %")
            return None
        if int(address) in MAPPED:
            help = f"write {address.ipv4_mapped}"
            self._report("P5013", f"{_shown(text)} is an IPv4-mapped IPv6 address", node.span, help)
            return None
        return ("6", int(address))

    def _endpoint_addresses(self, node: Node, holder: str) -> tuple[Address, ...]:
        addresses = []
        for item in self._items(node, "`addresses`"):
            address = self._address(item)
            if address is None:
                continue
            held = self._addresses.setdefault(address, (holder, item.span))
            if held[1] is item.span:
                addresses.append(address)
                continue
            text = item.text if isinstance(item, Scalar) else ""
            message = f"{_shown(text)} is already held by {_shown(held[0])}"
            self._add(_diagnostic("P5014", message, item.span, notes=(("held here", held[1]),)))
        return tuple(addresses)

    # --- endpoints ---

    def _endpoints(self, node: Node) -> tuple[Endpoint, ...]:
        endpoints = []
        for item in self._items(node, "`endpoints`"):
            if isinstance(item, Mapping):
                endpoints.append(self._endpoint(item))
            else:
                self._report("P5004", f"an endpoint must be a mapping, not {_kind_of(item)}", item.span)
        return tuple(endpoints)

    def _endpoint(self, node: Mapping) -> Endpoint:
        values = self._keys(node, ENDPOINT_KEYS, ("name", "labels"), "an endpoint")
        name = self._name(values["name"]) if "name" in values else ""
        addresses = self._endpoint_addresses(values["addresses"], name) if "addresses" in values else ()
        labels = self._labels(values["labels"]) if "labels" in values else {}
        cgroup = self._attachment(values, "cgroup", name)
        interface = self._attachment(values, "interface", name)
        if not _may_have_packets(node, values):
            place = values["name"].span if "name" in values else node.span
            help = "give it `addresses`, or a `cgroup` whose packets are its own"
            self._report("P5015", f"endpoint {_shown(name)} has neither an address nor a cgroup", place, help)
        return Endpoint(name, addresses, labels, cgroup, interface)

    def _name(self, node: Node) -> str:
        name = self._text(node, "a name")
        if name is None:
            return ""
        if problem := _name_problem(name):
            self._report("P5010", problem, node.span)
            return name
        first = self._names.setdefault(name, node.span)
        if first is not node.span:
            message = f"endpoint {_shown(name)} is given twice"
            self._add(_diagnostic("P5011", message, node.span, notes=(("first given here", first),)))
        return name

    def _labels(self, node: Node) -> dict[str, str]:
        if not isinstance(node, Mapping):
            self._report("P5004", f"`labels` must be a mapping, not {_kind_of(node)}", node.span, "such as `app: web`")
            return {}
        labels: dict[str, str] = {}
        places: dict[str, Span] = {}
        for key_node, value_node in node.pairs:
            key = self._text(key_node, "a label's key")
            value = self._text(value_node, "a label's value")
            if key is None:
                continue
            if key in places:
                assert isinstance(key_node, Scalar)
                self._duplicate_key(key_node, places[key])
                continue
            places[key] = key_node.span
            if value is not None:
                labels[key] = value
        return labels

    def _attachment(self, values: dict[str, Node], key: str, name: str) -> str | None:
        if key not in values:
            return None
        node = values[key]
        text = self._text(node, f"`{key}`")
        if text is None:
            return None
        problem = _interface_problem(text) if key == "interface" else _cgroup_problem(text)
        if problem:
            self._report("P5017", problem, node.span)
            return None
        holder, first = self._attachments.setdefault((key, text), (name, node.span))
        if first is not node.span:
            message = f"{key} {_shown(text)} is already that of {_shown(holder)}"
            self._add(_diagnostic("P5018", message, node.span, notes=(("held here", first),)))
        return text


_MISSING_HELP = {
    "version": "write `version: 1`",
    "endpoints": "write `endpoints: []` for none",
    "labels": "write `labels: {}` for none",
}


def _address_help(text: str) -> str:
    if "/" not in text:
        return "such as 10.0.0.1 or 2001:db8::1"
    return "a prefix cannot be registered: list single addresses (a policy's `cidr` may hold the prefix)"


def _may_have_packets(node: Mapping, values: dict[str, Node]) -> bool:
    """Whether an endpoint has a cgroup or an address, or a misspelt key that may have meant one."""
    misspelt = any(isinstance(key, Scalar) and key.text not in ENDPOINT_KEYS for key, _ in node.pairs)
    listed = values.get("addresses")
    is_empty = listed is None or (isinstance(listed, Sequence) and not listed.items)
    return misspelt or "cgroup" in values or not is_empty


def _name_problem(name: str) -> str:
    if not name:
        return "an endpoint's name is empty"
    if len(name) > 253:
        return "an endpoint's name is longer than 253 characters"
    if name == "host":
        return "`host` stands for this machine and cannot name an endpoint"
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return ""
    return f"the name {_shown(name)} is an address"


def _interface_problem(name: str) -> str:
    if not name or len(name.encode(errors="replace")) > INTERFACE_LIMIT:
        return f"an interface's name has 1 to {INTERFACE_LIMIT} bytes"
    if name in (".", "..") or "/" in name or ":" in name or any(c.isspace() for c in name):
        return f"{_shown(name)} cannot be an interface's name"
    return ""


def _cgroup_problem(path: str) -> str:
    if not path:
        return "the cgroup's path is empty"
    if ".." in path.split("/"):
        return f"the cgroup's path {_shown(path)} has `..` in it"
    return ""
