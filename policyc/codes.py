"""Every diagnostic of the language: its code, name, severity and explanation. Codes are never reused.

P0 text and syntax, P1 names, P2 values, P3 meaning, P4 files, P9 reserved constructs. Numbers from x101 on are warnings.
"""

from __future__ import annotations

from dataclasses import dataclass

from policyc.diagnostics import Diagnostic, Severity
from policyc.model import Span


@dataclass(frozen=True)
class Code:
    """`bad` is a policy that causes the diagnostic, `mended` one that does not; both are "" where a text cannot show it."""

    code: str
    name: str
    severity: Severity
    explanation: str
    bad: str
    mended: str


def _error(code: str, name: str, explanation: str, bad: str = "", mended: str = "") -> Code:
    return Code(code, name, "error", explanation, bad, mended)


def _warning(code: str, name: str, explanation: str, bad: str, mended: str) -> Code:
    return Code(code, name, "warning", explanation, bad, mended)


def _in_policy(rule: str) -> str:
    """A whole policy around one ingress rule."""
    return f"identity web {{ app == web }}\npolicy p for web {{ ingress {{ {rule} }} }}\n"


def _http(entries: str) -> str:
    """A whole policy around the entries of one block."""
    return _in_policy(f"allow from any on tcp/80 http {{ {entries} }}")


_TABLE = (
    _error(
        "P0001",
        "unexpected-character",
        "Outside quotes a policy has ASCII letters, digits, the marks of the language and `._/:@-` in words.",
        "identity café { app == web }\n",
        "identity cafe { app == web }\n",
    ),
    _error(
        "P0002",
        "control-character",
        "Control characters, invisible characters and characters that change the direction of text are refused "
        "everywhere, comments and strings included: a policy must read as it is compiled.",
        'identity web { app == "we\u202eb" }\n',
        'identity web { app == "web" }\n',
    ),
    _error(
        "P0003",
        "unclosed-string",
        "A string ends on the line it begins on.",
        'identity web { app == "web }\n',
        'identity web { app == "web" }\n',
    ),
    _error(
        "P0004",
        "bad-escape",
        "In a string `\\\"` is a quote and `\\\\` a backslash; there are no other escapes.",
        'identity web { app == "a\\n" }\n',
        'identity web { app == "a\\\\n" }\n',
    ),
    _error(
        "P0005",
        "too-long",
        "Words have at most 256, numbers 10 and strings 4096 characters.",
        _in_policy("allow from any priority 12345678901"),
        _in_policy("allow from any priority 1234"),
    ),
    _error(
        "P0006",
        "nested-too-deep",
        "Brackets nest at most 64 deep. The rest of the file is not read.",
        "cidr a = " + "[" * 65 + "]" * 65 + "\n",
        "cidr a = [ 10.0.0.0/8 ]\npolicy p for host { ingress { allow from a } }\n",
    ),
    _error(
        "P0007",
        "syntax",
        "Something else must stand here. Reading goes on at the next word that begins a rule or a declaration, so that "
        "one mistake gives one message.",
        _in_policy("allow web on tcp/80"),
        _in_policy("allow from web on tcp/80"),
    ),
    _error(
        "P0008",
        "reserved-word",
        "The words that begin or modify a rule and the built-in peers cannot name things. As label keys and values they "
        "can stand.",
        "identity log { app == log }\n",
        "identity logger { app == log }\n",
    ),
    _error(
        "P0009",
        "name-form",
        "A name begins with a letter or `_` and goes on with letters, digits, `-` and `_`; it is not quoted.",
        'identity "web" { app == web }\n',
        "identity web { app == web }\n",
    ),
    _error(
        "P0010",
        "unclosed-block",
        "A block ends with `}`.",
        "identity web { app == web }\npolicy p for web { ingress { allow from any }\n",
        "identity web { app == web }\npolicy p for web { ingress { allow from any } }\n",
    ),
    _error("P0011", "too-many-errors", "After a hundred mistakes the rest of a file is not read; after 500 errors others are not shown."),
    _warning("P0101", "too-many-warnings", "After 500 warnings others are not shown.", "", ""),
    _error(
        "P1001",
        "unknown-name",
        "A name must be declared in the file or in what it includes.",
        _in_policy("allow from wbe"),
        _in_policy("allow from web"),
    ),
    _error(
        "P1002",
        "duplicate-name",
        "Identities and CIDR sets share a name space; port sets have their own, and so have the endpoints of a test. In "
        "each a name is declared once, what is included counted in.",
        "identity web { app == web }\ncidr web = [ 10.0.0.0/8 ]\n",
        "identity web { app == web }\ncidr web-net = [ 10.0.0.0/8 ]\n",
    ),
    _error(
        "P1003",
        "wrong-kind",
        "An identity stands where peers or subjects stand, a CIDR set where addresses stand too.",
        "identity web { app == web }\ncidr net = [ web ]\n",
        "cidr web = [ 10.0.0.0/8 ]\ncidr net = [ web ]\n",
    ),
    _error(
        "P1004",
        "set-cycle",
        "A set cannot contain itself, directly or through other sets.",
        "cidr a = [ b ]\ncidr b = [ a ]\n",
        "cidr a = [ b ]\ncidr b = [ 10.0.0.0/8 ]\n",
    ),
    _error(
        "P1005",
        "unknown-reference",
        "`by` names a rule: `POLICY.NAME` of a rule `as NAME`, or `POLICY.DIRECTION.N` with rules counted from 1.",
        _in_policy("allow from any") + 'test "t" { allow 192.0.2.1 -> web tcp/80 by p.ingress.2 }\n',
        _in_policy("allow from any") + 'test "t" { allow 192.0.2.1 -> web tcp/80 by p.ingress.1 }\n',
    ),
    _error(
        "P1006",
        "duplicate-policy",
        "The name of a policy is unique in a compilation, over all its files, because references to rules begin with it.",
        "policy p for host { egress {} }\npolicy p for host { ingress {} }\n",
        "policy p for host { egress {} }\npolicy q for host { ingress {} }\n",
    ),
    _error(
        "P1007",
        "duplicate-rule-name",
        "`as` gives a rule a name that is unique in its policy.",
        _in_policy("allow from any as a deny from world as a"),
        _in_policy("allow from any as a deny from world as b"),
    ),
    _error(
        "P1008",
        "positional-name",
        "The name that `as` gives must not look like a reference by position, and has the form of a name.",
        _in_policy("allow from any as ingress.1"),
        _in_policy("allow from any as first"),
    ),
    _warning(
        "P1101",
        "unused-name",
        "An identity, CIDR set or port set that nothing uses is often a slip. In files that are only included it is fine.",
        "identity web { app == web }\npolicy p for host { egress {} }\n",
        "identity web { app == web }\npolicy p for web { egress {} }\n",
    ),
    _error(
        "P2001",
        "bad-address",
        "An address or prefix is written in the usual way: four numbers up to 255 or an IPv6 address, perhaps with a "
        "prefix length up to 32 or 128. Ranges stand only in feed files.",
        _in_policy("allow from 10.0.0.256"),
        _in_policy("allow from 10.0.0.25"),
    ),
    _error(
        "P2002",
        "host-bits",
        "A prefix has no bits set behind its length.",
        _in_policy("allow from 10.1.0.0/8"),
        _in_policy("allow from 10.0.0.0/8"),
    ),
    _error(
        "P2003",
        "mapped-address",
        "An IPv4-mapped IPv6 address (::ffff:a.b.c.d) is written as the IPv4 address it stands for.",
        _in_policy("allow from ::ffff:192.0.2.1"),
        _in_policy("allow from 192.0.2.1"),
    ),
    _error(
        "P2004",
        "except-outside",
        "What is excepted from a prefix must lie inside it.",
        _in_policy("allow from 10.0.0.0/8 except 11.0.0.0/16"),
        _in_policy("allow from 10.0.0.0/8 except 10.1.0.0/16"),
    ),
    _error(
        "P2005",
        "except-covers",
        "An exception that covers its whole prefix leaves nothing.",
        _in_policy("allow from 10.0.0.0/8 except 10.0.0.0/8"),
        _in_policy("allow from 10.0.0.0/8 except 10.0.0.0/9"),
    ),
    _error(
        "P2006",
        "bad-port",
        "A port is a number from 1 to 65535, or a range of two.",
        _in_policy("allow from any on tcp/70000"),
        _in_policy("allow from any on tcp/7000"),
    ),
    _error(
        "P2007",
        "port-zero",
        "Port 0 is no destination. A protocol alone means every port.",
        _in_policy("allow from any on tcp/0"),
        _in_policy("allow from any on tcp"),
    ),
    _error(
        "P2008",
        "inverted-range",
        "A range goes from the smaller to the greater.",
        _in_policy("allow from any on tcp/90-80"),
        _in_policy("allow from any on tcp/80-90"),
    ),
    _error(
        "P2009",
        "port-on-portless",
        "Only tcp, udp and sctp have ports.",
        _in_policy("allow from any on any/80"),
        _in_policy("allow from any on tcp/80"),
    ),
    _error(
        "P2010",
        "bad-protocol",
        "A protocol is tcp, udp, sctp, icmp, icmpv6, any, or `proto` and a number up to 255.",
        _in_policy("allow from any on proto 256"),
        _in_policy("allow from any on proto 112"),
    ),
    _error(
        "P2011",
        "bad-icmp-type",
        "An ICMP type and its code are numbers up to 255 or standard names.",
        _in_policy("allow from any on icmp/echo-reqest"),
        _in_policy("allow from any on icmp/echo-request"),
    ),
    _error(
        "P2012",
        "bad-priority",
        "A priority is a number from 0 to 1000000; the smaller is asked first.",
        _in_policy("allow from any priority 1000001"),
        _in_policy("allow from any priority 1000000"),
    ),
    _error(
        "P2013",
        "language-version",
        "This compiler knows version 1 of the language.",
        "language 2\n",
        "language 1\n",
    ),
    _error("P2014", "bad-feed-line", "A line of a feed file is a prefix, an address or a range `A-B`, perhaps with a comment."),
    _error(
        "P2015",
        "unquoted-digits",
        "A label key or value of digits only stands in quotes: labels are text, and 1 is not 01.",
        "identity web { version == 1 }\npolicy p for web { egress {} }\n",
        'identity web { version == "1" }\npolicy p for web { egress {} }\n',
    ),
    _error(
        "P2016",
        "bad-method",
        "An entry begins with methods: tokens in capitals with commas between them, or `*` for any.",
        _http('get "/v1/**"'),
        _http('GET "/v1/**"'),
    ),
    _error(
        "P2017",
        "bad-path",
        "A path begins with `/` and is written decoded, without query; `**` is a whole segment. What no request can match, because "
        "it would be malformed, is an error.",
        _http('GET "v1/**"'),
        _http('GET "/v1/**"'),
    ),
    _error(
        "P2018",
        "bad-host",
        "A host is written without scheme, port and dot at its end; `*` stands for bytes of one label, `**` is a whole label.",
        _http('GET host "api.example:8080"'),
        _http('GET host "api.example"'),
    ),
    _error(
        "P2019",
        "bad-header",
        "The name of a header is a token (RFC 9110, 5.6.2): letters, digits, `-`, `_` and a few other marks; no colon, no space.",
        _http('GET header "X-Key:" absent'),
        _http('GET header "X-Key" absent'),
    ),
    _error(
        "P2020",
        "bad-value",
        "Values of headers are compared without the white space around them.",
        _http('GET header "X-Key" "a "'),
        _http('GET header "X-Key" "a"'),
    ),
    _error(
        "P2021",
        "bad-upgrade",
        "`upgrade` names protocols by strings, or none for any.",
        _http('GET "/ws" upgrade "websocket, h2c"'),
        _http('GET "/ws" upgrade "websocket", "h2c"'),
    ),
    _error(
        "P2022",
        "bad-limit",
        "The limit of a head is 256 to 65536 bytes; `k` stands for 1024.",
        _in_policy('allow from any on tcp/80 http limit 1m { GET "/v1/**" }'),
        _in_policy('allow from any on tcp/80 http limit 32k { GET "/v1/**" }'),
    ),
    _error(
        "P2023",
        "bad-target",
        "The target of a request is written as a client sends it: `/…`, `*`, `http://…` or HOST:PORT, without spaces.",
        _http("GET") + 'test "t" { allow host -> web tcp/80 GET "v1" }\n',
        _http("GET") + 'test "t" { allow host -> web tcp/80 GET "/v1" }\n',
    ),
    _error(
        "P2024",
        "bad-regex",
        "A regular expression `~\"…\"` is of the dialect that docs/regex.md describes: it is anchored at both ends and matches in linear "
        "time, so there are no anchors, backreferences or lookarounds.",
        _http('GET ~"/v1/("'),
        _http('GET ~"/v1/.*"'),
    ),
    _warning(
        "P2101",
        "unknown-method",
        "A method that nobody knows but that lies near to a common one is often a slip.",
        _http('GETT "/v1/**"'),
        _http('GET "/v1/**"'),
    ),
    _error(
        "P3001",
        "unsatisfiable-selector",
        "No labels can meet all conditions of this selector.",
        "identity web { app == web, app == api }\n",
        "identity web { app in (web, api) }\n",
    ),
    _error(
        "P3002",
        "bad-subject",
        "A policy is for endpoints (identities, selectors, `endpoints`) or the `host`: what runs here and can be judged.",
        "policy p for world { egress {} }\n",
        "policy p for host { egress {} }\n",
    ),
    _error(
        "P3003",
        "same-without-labels",
        "`same(…)` compares the peer's labels with the subject's, and the host has no labels: it would match nothing.",
        "policy p for host { ingress { allow from same(ns) } }\n",
        "policy p for endpoints { ingress { allow from same(ns) } }\n",
    ),
    _error(
        "P3004",
        "duplicate-section",
        "A policy has each section once.",
        "policy p for host { ingress {} ingress {} }\n",
        "policy p for host { ingress {} egress {} }\n",
    ),
    _error(
        "P3005",
        "duplicate-modifier",
        "A modifier is said once.",
        _in_policy("allow from any log log"),
        _in_policy("allow from any log"),
    ),
    _error(
        "P3006",
        "wrong-side",
        "Ingress rules say `from` whom traffic comes, egress rules `to` whom it goes.",
        _in_policy("allow to any"),
        _in_policy("allow from any"),
    ),
    _error(
        "P3007",
        "misplaced-language",
        "`language N` is the first thing in a file and stands once.",
        "policy p for host { egress {} }\nlanguage 1\n",
        "language 1\npolicy p for host { egress {} }\n",
    ),
    _error(
        "P3008",
        "duplicate-address",
        "An address belongs to one endpoint.",
        'test "t" { endpoint a 10.0.0.1 { a = b } endpoint c 10.0.0.1 { a = d } deny a -> c }\n',
        'test "t" { endpoint a 10.0.0.1 { a = b } endpoint c 10.0.0.2 { a = d } allow a -> c }\n',
    ),
    _error(
        "P3009",
        "duplicate-label",
        "An endpoint has one value a label.",
        'test "t" { endpoint a 10.0.0.1 { app = x, app = y } allow a -> host }\n',
        'test "t" { endpoint a 10.0.0.1 { app = x, role = y } allow a -> host }\n',
    ),
    _error(
        "P3010",
        "family-mismatch",
        "Both ends of a flow have addresses of one family.",
        'test "t" { allow 192.0.2.1 -> 2001:db8::1 tcp/80 }\n',
        'test "t" { allow 192.0.2.1 -> 192.0.2.2 tcp/80 }\n',
    ),
    _error(
        "P3011",
        "log-without-deny",
        "`log` after a default reports what the default denies; `default pass` denies nothing.",
        "policy p for host { ingress default pass log {} }\n",
        "policy p for host { ingress default deny log {} }\n",
    ),
    _error(
        "P3012",
        "misplaced-exception",
        "`except` stands after a prefix (and stays inside it) or after a list in brackets (and is subtracted from it).",
        "cidr a = [ 10.0.0.0/8 ]\ncidr b = [ a except 10.1.0.0/16 ]\n",
        "cidr a = [ 10.0.0.0/8 ]\ncidr b = [ a ] except [ 10.1.0.0/16 ]\n",
    ),
    _error(
        "P3013",
        "misplaced-block",
        "A block stands on an allow rule, whose requests it judges; deny and pass rules are about whole connections.",
        _in_policy('deny from any on tcp/80 http { GET "/v1/**" }'),
        _in_policy('allow from any on tcp/80 http { deny GET "/v1/**" }'),
    ),
    _error(
        "P3014",
        "block-services",
        "A rule with a block says its services after `on`, and the block's protocol must be spoken over each: HTTP over tcp.",
        _in_policy('allow from any on udp/80 http { GET "/v1/**" }'),
        _in_policy('allow from any on tcp/80 http { GET "/v1/**" }'),
    ),
    _error(
        "P3015",
        "duplicate-condition",
        "An entry says each of `host`, `upgrade`, `body`, `header` of a name and `query` of a key once; values with commas between "
        "them are alternatives.",
        _http('GET query "page" "1" query "page" "2"'),
        _http('GET query "page" "1", "2"'),
    ),
    _error(
        "P3016",
        "framing-header",
        "Headers that frame a request are checked for every request and cannot be asked for by `header`; for Host and Upgrade there "
        "are `host` and `upgrade`.",
        _http('GET header "Host" "api.example"'),
        _http('GET host "api.example"'),
    ),
    _error(
        "P3017",
        "request-service",
        "A request in an expectation goes over tcp.",
        _http("GET") + 'test "t" { allow host -> web udp/80 GET "/v1" }\n',
        _http("GET") + 'test "t" { allow host -> web tcp/80 GET "/v1" }\n',
    ),
    _warning(
        "P3101",
        "never-matches",
        "All peers of this rule are CIDR sets without an address; an empty set matches nothing.",
        "cidr none = []\n" + _in_policy("allow from none"),
        "cidr some = [ 10.0.0.0/8 ]\n" + _in_policy("allow from some"),
    ),
    _warning(
        "P3102",
        "empty-block",
        "A block judges every request of its connections; without entries it denies them all.",
        _http(""),
        _http("*"),
    ),
    _warning(
        "P3103",
        "repeated-entry",
        "Another entry matches the same requests and decides before this one: deny entries before allow entries, then the first.",
        _http('GET "/a", "/b" GET "/b", "/a"'),
        _http('GET "/a", "/b"'),
    ),
    _error("P4001", "unreadable-file", "The file is not there or cannot be read.", 'include "nowhere.pol"\n', ""),
    _error(
        "P4002",
        "outside-root",
        "Files are read only below the root, which is the folder of the first file or `--root`: no absolute paths, no "
        "`..`, no links that lead out.",
        'include "../secret.pol"\n',
        "",
    ),
    _error("P4003", "not-a-file", "Only regular files are read: no folders, pipes or devices.", 'include "."\n', ""),
    _error("P4004", "bad-encoding", "Files are UTF-8, with or without a byte order mark."),
    _error("P4005", "file-too-large", "Policy files have at most 16 MiB and 3,000,000 words and marks, all together 32 MiB; feed files 64 MiB, all together 128 MiB."),
    _error("P4006", "include-cycle", "A file cannot include itself, directly or through others."),
    _error(
        "P4007",
        "policy-too-large",
        "What sets stand for, written out wherever they are put together, is at most 2,000,000 services and 10,000,000 ranges: "
        "name one large set instead of many that repeat it.",
    ),
    _error(
        "P9001",
        "not-there-yet",
        "The language keeps a place for this construct, but this version of the compiler does not know it: the blocks `grpc`, "
        "`kafka` and `dns`, CIDR sets filled at load, services, `via proxy`, `never` and `always`.",
        "cidr live at load\n",
        "cidr live = [ 192.0.2.0/24 ]\n",
    ),
)  # fmt: skip

CODES: dict[str, Code] = {entry.code: entry for entry in _TABLE}
HELP = {
    "syntax": "docs/language.md shows every construct with an example",
    "reserved-word": "choose another name",
    "duplicate-name": "rename one of them",
    "duplicate-policy": "rename one of them",
    "unreadable-file": "check its name and that you may read it",
    "too-many-errors": "mend these first",
}
"""What helps with a finding that says nothing of its own and where the explanation would be too general."""
BY_NAME: dict[str, Code] = {entry.name: entry for entry in _TABLE}


def diagnostic(
    name: str,
    message: str,
    span: Span | None,
    *,
    expected: tuple[str, ...] = (),
    help: str | None = None,
    suggestion: str | None = None,
    notes: tuple[tuple[str, Span], ...] = (),
) -> Diagnostic:
    """A finding with the code and severity of its name; without `help` it has the code's explanation for it.

    Raises KeyError for a name that is not in the table."""
    entry = BY_NAME[name]
    help = help or HELP.get(name) or as_help(entry.explanation)
    return Diagnostic(entry.code, name, entry.severity, message, span, expected, help, suggestion, notes)


def as_help(explanation: str) -> str:
    """An explanation in the form of a help line: without capital and full stop."""
    text = explanation.removesuffix(".")
    return text if text[1:2].isupper() else text[0].lower() + text[1:]
