"""HTTP blocks and the requests of expectations: what is read, and what each mistake says and where."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyc.check import http_patterns
from policyc.check.findings import Findings
from policyc.frontend import LoadResult
from policyc.grammar import syntax
from policyc.grammar.parser import parse
from policyc.model import HTTP_HEAD_LIMIT, Action, HttpBlock, HttpEntry, HttpExpectation, Pattern, Span


def around(block: str, on: str = "on tcp/80") -> str:
    return f"policy p for host {{ ingress {{\nallow from any {on} {block}\n}} }}\n"


@pytest.fixture
def block(compiled):
    def run(text: str) -> HttpBlock:
        result: LoadResult = compiled(around(text))
        assert result.diagnostics == []
        assert result.policy is not None
        found = result.policy.rules[0].http
        assert found is not None
        return found

    return run


@pytest.fixture
def entries(block):
    return lambda text: block(f"http {{\n{text}\n}}").entries


@pytest.fixture
def mistakes(compiled):
    """The names of what is found in the entries of a block."""
    return lambda text: [d.name for d in compiled(around(f"http {{\n{text}\n}}")).diagnostics]


def texts(patterns: tuple[Pattern, ...]) -> list[tuple[str, str]]:
    return [(p.kind, p.text) for p in patterns]


# --- blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "audit", "limit"),
    [
        ("http", False, HTTP_HEAD_LIMIT),
        ("http audit", True, HTTP_HEAD_LIMIT),
        ("http limit 256", False, 256),
        ("http limit 64k audit", True, 65536),
        ("http audit limit 1k", True, 1024),
        ("http limit 65536", False, 65536),
    ],
)
def test_options(block, header: str, audit: bool, limit: int) -> None:
    found = block(f"{header} {{ GET }}")
    assert (found.audit, found.limit) == (audit, limit)


@pytest.mark.parametrize("limit", ["0", "255", "65537", "0k", "65k", "9999999999", "1m", "1.5k", "32K", "-1"])
def test_bad_limits(compiled, limit: str) -> None:
    [found] = compiled(around(f"http limit {limit} {{ GET }}")).diagnostics
    assert (found.name, found.span.column, found.span.end_column) == ("bad-limit", 37, 37 + len(limit))


@pytest.mark.parametrize(("limit", "meant"), [("32K", "32k"), ("32kb", "32k"), ("8KiB", "8k"), ("1m", None)])
def test_limits_in_other_units_are_suggested(compiled, limit: str, meant: str | None) -> None:
    [found] = compiled(around(f"http limit {limit} {{ GET }}")).diagnostics
    assert found.suggestion == meant


def test_the_block_is_one_of_the_rules_qualities(compiled) -> None:
    text = "policy p for host { ingress {\n  allow from any on tcp log http {\n    GET\n  } audit as a priority 3\n deny from any } }"
    policy = compiled(text).policy
    rule, other = policy.rules
    assert (rule.ref, rule.log, rule.audit, rule.priority, other.http) == ("p.a", True, True, 3, None)
    assert rule.http.span == Span("main.pol", 2, 29, 4, 4)
    assert rule.span == Span("main.pol", 2, 3, 4, 26)
    assert rule.http.entries[0].span == Span("main.pol", 3, 5, 3, 8)


@pytest.mark.parametrize("on", ["tcp", "tcp/80-90", "tcp/80, tcp/443", "[ tcp/80 ]", "web", "proto 6"])
def test_services_that_speak_http(names, on: str) -> None:
    assert names(f"ports web = [ tcp/80, tcp/8000-8100 ]\n{around('http { GET }', f'on {on}, web')}") == []


@pytest.mark.parametrize("on", ["any", "udp/80", "proto 17", "icmp", "all", "tcp/80, sctp/80", "[ tcp/80, any ]"])
def test_services_that_do_not(compiled, on: str) -> None:
    found = compiled(f"ports all = [ tcp/80, udp/80 ]\n{around('http { GET }', f'on {on}, all')}").diagnostics
    assert {d.name for d in found} == {"block-services"}


def test_a_block_needs_on(names) -> None:
    assert names(around("http { GET }", "")) == ["block-services"]


def test_services_that_are_wrong_are_told_once(names) -> None:
    assert names(around("http { GET }", "on tcp/0")) == ["port-zero"]


@pytest.mark.parametrize("action", ["deny", "pass"])
def test_only_allow_rules_carry_blocks(names, action: str) -> None:
    text = f"policy p for host {{ ingress {{ {action} from any on tcp/80 http {{ GET }} }} }}"
    assert names(text) == ["misplaced-block"]


def test_one_block_a_rule(names) -> None:
    assert names(around("http { GET } http { GET }")) == ["duplicate-modifier"]


def test_an_empty_block_denies_everything_and_says_so(compiled) -> None:
    result = compiled(around("http {}"))
    assert [d.name for d in result.diagnostics] == ["empty-block"]
    assert result.policy.rules[0].http.entries == ()


def test_blocks_that_meet_add_up(names) -> None:
    rule = 'allow from any on tcp/80 http { GET "/a" }\n'
    assert names(f"policy p for host {{ ingress {{ {rule * 2} allow from any on tcp/80 }} }}") == []


# --- entries -----------------------------------------------------------------------------------------------------


def test_an_entry_ends_where_the_next_begins(entries) -> None:
    text = (
        'GET, HEAD "/a", "/b" POST * "/c" deny PUT "/d" host "x" GET upgrade GET upgrade "ws" allow * body GET body PUT'
    )
    found: list[HttpEntry] = entries(text)
    assert [e.number for e in found] == list(range(1, len(found) + 1))
    shown = [(e.action.word, e.methods, [p.text for p in e.paths], e.upgrade, e.body) for e in found]
    assert shown == [
        ("allow", ("GET", "HEAD"), ["/a", "/b"], None, False),
        ("allow", ("POST",), [], None, False),
        ("allow", (), ["/c"], None, False),
        ("deny", ("PUT",), ["/d"], None, False),
        ("allow", ("GET",), [], (), False),
        ("allow", ("GET",), [], ("ws",), False),
        ("allow", (), [], None, True),
        ("allow", ("GET",), [], None, True),
        ("allow", ("PUT",), [], None, False),
    ]


def test_newlines_mean_nothing(compiled) -> None:
    one = 'GET, HEAD "/a", ~"/b" header "X-A" "1", "2" header "X-B" absent query "q" deny * "/c" upgrade'
    entries = [
        compiled(around(f"http {{ {text} }}")).policy.rules[0].http.entries for text in (one, one.replace(" ", "\n"))
    ]
    first, second = ([bare(e) for e in found] for found in entries)
    assert first == second


def bare(entry: HttpEntry) -> object:
    conditions = [(c.kind, c.name, texts(c.values), c.absent) for c in entry.conditions]
    return entry.action, entry.methods, texts(entry.paths), texts(entry.hosts), conditions, entry.upgrade, entry.body


def test_conditions(entries) -> None:
    [found] = entries(
        'GET host "API.example", "*.x", ~"y" header "X-Key" header "X_Old" absent header "Accept" "a*", ~"b" '
        'query "page" ~"[0-9]+" query "Q" "" query "r" absent upgrade "WebSocket", "h2c/1", "websocket" body'
    )
    assert texts(found.hosts) == [("string", "api.example"), ("glob", "*.x"), ("regex", "y")]
    assert [(c.kind, c.name, texts(c.values), c.absent) for c in found.conditions] == [
        ("header", "x-key", [], False),
        ("header", "x_old", [], True),
        ("header", "accept", [("string", "a*"), ("regex", "b")], False),
        ("query", "page", [("regex", "[0-9]+")], False),
        ("query", "Q", [("string", "")], False),
        ("query", "r", [], True),
    ]
    assert (found.upgrade, found.body) == (("websocket", "h2c/1"), True)


def test_alternatives_stand_once(entries) -> None:
    [found] = entries('GET, HEAD, GET "/a", "/b", ~"/a", "/a" host "A", "a" header "X" "v", "v"')
    assert found.methods == ("GET", "HEAD")
    assert texts(found.paths) == [("string", "/a"), ("string", "/b"), ("regex", "/a")]
    assert texts(found.hosts) == [("string", "a")]
    assert texts(found.conditions[0].values) == [("string", "v")]
    assert found.paths[0].span.column == 16


def test_words_of_entries_name_other_things(names) -> None:
    text = (
        "identity header { body == absent, limit in (query, upgrade), name == call, exists produce }\n"
        "ports body = [ tcp/80 ]\n"
        "policy query for header { ingress { allow from header on body http { GET } as upgrade } }\n"
        'test "t" { endpoint limit 10.0.0.1 { consume = name } allow host -> header, limit body GET "/" by query.upgrade.1 }\n'
    )
    assert [n for n in names(text) if n != "unused-name"] == []


# --- methods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "name", "suggestion"),
    [
        ("get", "bad-method", "GET"),
        ("Get", "bad-method", "GET"),
        ("gett", "bad-method", "GET"),
        ("frobnicate", "bad-method", None),
        ("tcp/80", "bad-method", None),
        ("A:B", "bad-method", None),
        ("header", "bad-method", None),
        ("heeder", "bad-method", "header"),
        ("DENY", "bad-method", "deny"),
        ("Deny", "bad-method", "deny"),
        ("ALLOW", "bad-method", "allow"),
        ("PASS", "bad-method", None),
        ("block", "bad-method", "deny"),
        ("BLOCK", "unknown-method", "deny"),
        ("/v1/", "bad-method", None),
        ("GETT", "unknown-method", "GET"),
        ("OPTION", "unknown-method", "OPTIONS"),
        ("DELET", "unknown-method", "DELETE"),
    ],
)
def test_methods_that_are_none(compiled, word: str, name: str, suggestion: str | None) -> None:
    found = compiled(around(f'http {{\n{word} "/x"\n}}')).diagnostics
    if word == "tcp/80":
        assert [d.name for d in found] == ["syntax"]
        return
    assert [(d.name, d.suggestion, d.span.column, d.span.end_column) for d in found] == [
        (name, suggestion, 1, 1 + len(word))
    ]


@pytest.mark.parametrize(
    "word", ["PURGE", "M-SEARCH", "PROPFIND", "COPY", "MOVE", "LOCK", "QUERY", "X.Y", "REPORT", "BAN"]
)
def test_other_methods_are_fine(entries, word: str) -> None:
    assert entries(f'{word} "/x"')[0].methods == (word,)


def test_star_stands_alone(mistakes) -> None:
    assert mistakes("GET, *") == ["bad-method"]


# --- paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "string"),
        ("/v1/items", "string"),
        ("/v1/", "string"),
        ("/*", "glob"),
        ("/**", "glob"),
        ("/**/x", "glob"),
        ("/a/**/b/*.html", "glob"),
        ("/a*b*/c", "glob"),
        ("/my files/**", "glob"),
        ("/caf\u00e9;v=1", "string"),
        ("/100%", "string"),
        ("/%zz", "string"),
        ("/...", "string"),
        ("/.well-known/*", "glob"),
        ('/say \\"hi\\"', "string"),
        ("http://api.example/**", "glob"),
        ("https://*/x", "glob"),
        ("http://api.example", "string"),
    ],
)
def test_paths(entries, path: str, kind: str) -> None:
    [pattern] = entries(f'GET "{path}"')[0].paths
    assert (pattern.kind, pattern.text) == (kind, path.replace("\\", ""))


@pytest.mark.parametrize("entry", ['OPTIONS "*"', 'GET, OPTIONS "/x", "*"'])
def test_the_path_star_is_no_glob(entries, entry: str) -> None:
    assert texts(entries(entry)[0].paths)[-1] == ("string", "*")


@pytest.mark.parametrize(
    "entry",
    [
        'CONNECT "proxy.example:443"',
        'CONNECT "*.example:443"',
        'CONNECT "[::1]:8443"',
        '* "x:1"',
        "deny CONNECT",
        'CONNECT ~".*:443"',
    ],
)
def test_targets_of_connect(mistakes, entry: str) -> None:
    assert mistakes(entry) == []


@pytest.mark.parametrize(
    ("entry", "column", "end", "suggestion"),
    [
        ('GET "v1/**"', 5, 12, '"/v1/**"'),
        ('GET ""', 5, 7, '"/"'),
        ('GET "**"', 5, 9, '"/**"'),
        ('GET "?x"', 5, 9, None),
        ('GET "HTTP://x/"', 5, 16, None),
        ('GET "ftp://x/"', 5, 15, None),
        ('* "*"', 3, 6, '"/**"'),
        ('GET "/a//b"', 8, 10, None),
        ('GET "//"', 5, 9, None),
        ('GET "/a/./b"', 9, 10, None),
        ('GET "/a/.."', 9, 11, None),
        ('GET "/a/..;x/b"', 9, 13, None),
        ('GET "/.;"', 7, 9, None),
        ('GET "/a?x=1"', 8, 9, '"/a"'),
        ('GET "/a#b"', 8, 9, None),
        ('GET "/a\\\\b"', 8, 10, None),
        ('GET "/\\"\\"%41"', 11, 14, '"/\\"\\"A"'),
        ('GET "/%C3%A9"', 7, 10, '"/\u00e9"'),
        ('GET "/%ff"', 7, 10, None),
        ('GET "/%2f"', 7, 10, None),
        ('GET "/%00"', 7, 10, None),
        ('GET "/%25"', 7, 10, '"/%"'),
        ('GET "/a**"', 7, 10, None),
        ('GET "/***/b"', 7, 10, None),
        ('GET "/\t"', 7, 8, None),
        ('GET "http:///x"', 5, 16, None),
        ('GET "http://"', 5, 14, None),
        ('GET "http://x//y"', 14, 16, None),
        ('GET "x:443"', 5, 12, None),
        ('CONNECT "/x"', 9, 13, None),
        ("CONNECT", 1, 8, None),
        ("GET, CONNECT", 6, 13, None),
    ],
)
def test_paths_that_match_nothing(compiled, entry: str, column: int, end: int, suggestion: str | None) -> None:
    [found] = compiled(around(f"http {{\n{entry}\n}}")).diagnostics
    assert (found.name, found.span.column, found.span.end_column) == ("bad-path", column, end)
    assert found.suggestion == suggestion
    assert found.help


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('/a*.;%4?#\\ "\u00e9:'), max_size=12))
def test_what_is_suggested_is_right(text: str) -> None:
    """A suggestion that is put in has no further mistake but of another kind, and the place lies inside the string."""
    written = http_patterns.quoted(text)
    entry = syntax.Word("GET", Span("x", 1, 1, 1, 4))
    word = syntax.Word(text, Span("x", 1, 1, 1, 1 + len(written)), True)
    found = Findings()
    node = syntax.HttpEntry(None, (entry,), (syntax.Pattern(word, False, word.span),), (), word.span)
    http_patterns.paths(node, ("GET",), found)
    for d in found:
        assert d.span is not None
        assert 1 <= d.span.column < d.span.end_column <= word.span.end_column
        if d.suggestion is not None:
            tree, wrong = parse(
                f"policy p for host {{ ingress {{ allow from any http {{ GET {d.suggestion} }} }} }}", "x"
            )
            assert wrong == []
            assert tree.items


# --- hosts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["api.example", "*.example", "**.example", "a*b.*", "[::1]", "10.0.0.1", "xn--caf-dma.fr", "*", "**"]
)
def test_hosts(entries, host: str) -> None:
    assert texts(entries(f'GET host "{host}"')[0].hosts) == [("glob" if "*" in host else "string", host)]


@pytest.mark.parametrize(
    ("host", "column", "end", "suggestion"),
    [
        ("", 1, 3, None),
        ("a:80", 3, 6, '"a"'),
        ("a:", 3, 4, '"a"'),
        (":80", 1, 6, None),
        ("[::1]:80", 7, 10, '"[::1]"'),
        ("a.", 3, 4, '"a"'),
        (".", 1, 4, None),
        ("a..b", 4, 5, None),
        ("http://a/b", 2, 9, '"a"'),
        ("a/b", 3, 4, None),
        ("::1", 1, 6, '"[::1]"'),
        ("[::1", 2, 3, None),
        ("a_b", 3, 4, None),
        ("a b", 3, 4, None),
        ("caf\u00e9.fr", 5, 6, None),
        ("***.b", 2, 5, None),
        ("a**.b", 2, 5, None),
    ],
)
def test_bad_hosts(compiled, host: str, column: int, end: int, suggestion: str | None) -> None:
    [found] = compiled(around(f'http {{\nGET host\n"{host}"\n}}')).diagnostics
    assert found.name == "bad-host"
    if found.span.column == 1:  # the whole string
        assert found.span.end_column == len(host) + 3
    else:
        assert (found.span.column, found.span.end_column) == (column, end)
    assert found.suggestion == suggestion


# --- headers, query, upgrade ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "X Key", "X-Key:", "X\u00e9", "a/b", 'a\\"b', "(x)"])
def test_names_that_no_header_has(mistakes, name: str) -> None:
    assert mistakes(f'GET header "{name}"') == ["bad-header"]


@pytest.mark.parametrize("name", ["Host", "CONTENT-LENGTH", "transfer-encoding", "Connection", "Upgrade", "Expect"])
def test_framing_is_not_asked_for(compiled, name: str) -> None:
    [found] = compiled(around(f'http {{ GET header "{name}" absent }}')).diagnostics
    assert found.name == "framing-header"
    assert found.suggestion == (name.lower() if name in ("Host", "Upgrade") else None)


@pytest.mark.parametrize("value", [" a", "a ", "a\t", " "])
def test_values_have_no_white_space_around(mistakes, value: str) -> None:
    assert mistakes(f'GET header "X" "{value}"') == ["bad-value"]


@pytest.mark.parametrize(
    "entry", ['query "q" " a "', 'header "X" ""', 'header "X" "a b"', 'query "" "x"', 'query "%41"']
)
def test_other_values_are_fine(mistakes, entry: str) -> None:
    assert mistakes(f"GET {entry}") == []


@pytest.mark.parametrize("value", ['""', '"a b"', '"a, b"', '~"a"', '"a/b/c"', '"/1"'])
def test_bad_protocols(mistakes, value: str) -> None:
    assert mistakes(f"GET upgrade {value}") == ["bad-upgrade"]


@pytest.mark.parametrize(
    "conditions",
    ['host "a" host "b"', "upgrade upgrade", "body body", 'header "X" header "x" absent', 'query "q" query "q" "1"'],
)
def test_conditions_are_said_once(mistakes, conditions: str) -> None:
    assert mistakes(f"GET {conditions}") == ["duplicate-condition"]


@pytest.mark.parametrize("conditions", ['header "x-a" header "x_a"', 'query "q" query "Q"', 'header "q" query "q"'])
def test_conditions_on_different_names(mistakes, conditions: str) -> None:
    assert mistakes(f"GET {conditions}") == []


# --- regexes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at"),
    [("a(b", 1), ("a)", 1), ("[z-a]", 1), ("\u00e9(?=x)", 1), ("x\\1", 1), ("a{2,1}", 1), ("*a", 0), ('\\"\\p', 2)],
)
def test_mistakes_in_regexes_are_shown_where_they_are(compiled, text: str, at: int) -> None:
    for entry in (
        f'GET ~"{text}"',
        f'GET host "a", ~"{text}"',
        f'GET header "X" ~"{text}"',
        f'GET query "X" ~"{text}"',
    ):
        [found] = compiled(around(f"http {{\n{entry}\n}}")).diagnostics
        assert found.name == "bad-regex"
        assert found.span.column == entry.index('~"') + 3 + at, (found.message, entry)
        assert found.span.end_column == found.span.column + 1


# --- entries that never decide ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('GET "/a"\nGET "/a"', 4),
        ('GET, PUT "/a", "/b"\nPUT, GET "/b", "/a"', 4),
        ('allow GET "/a"\ndeny GET "/a"', 3),
        ('GET host "A"\nallow GET host "a"', 4),
        ('* header "X" header "Y" absent\n* header "y" absent header "x"', 4),
    ],
)
def test_an_entry_that_never_decides(compiled, text: str, line: int) -> None:
    result = compiled(around(f"http {{\n{text}\n}}"))
    assert [(d.name, d.span.line) for d in result.diagnostics] == [("repeated-entry", line)]
    assert len(result.policy.rules[0].http.entries) == 2


@pytest.mark.parametrize(
    "text",
    [
        'GET "/a" GET "/a" body',
        'GET "/a" GET ~"/a"',
        "GET upgrade GET",
        "GET upgrade deny GET upgrade",
        'GET "/a" HEAD "/a"',
        'GET query "a" GET header "a"',
    ],
)
def test_entries_that_differ(mistakes, text: str) -> None:
    assert mistakes(text) == []


# --- recovery ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake",
    [
        'GET "/a" "/b"',
        'GET, "/a"',
        '"/a"',
        "GET /a",
        'deny "/a"',
        'GET header X "1"',
        'GET "/a" )',
        "GET host",
        'get "/a"',
        "GET,",
    ],
)
def test_one_mistake_in_an_entry_gives_one_message_and_hides_no_other(compiled, mistake: str) -> None:
    text = around(f'http {{\nGET "a"\n{mistake}\ndeny * "b"\nHEAD, GET "c"\n}}\nallow from nobody')
    found = compiled(text).diagnostics
    assert [(d.name, d.span.line) for d in found if d.span.line != 4] in (
        [("bad-path", 3), ("bad-path", 5), ("bad-path", 6), ("unknown-name", 8)],
        [("bad-path", 3), ("syntax", 5), ("bad-path", 5), ("bad-path", 6), ("unknown-name", 8)],
    )
    assert sum(d.name in ("syntax", "bad-method") for d in found) == 1


def test_a_block_that_is_not_closed_ends_before_the_next_rule(compiled) -> None:
    text = 'policy p for host { ingress {\nallow from any on tcp/80 http {\nGET "/a"\nallow from nobody\n} }\n'
    found = compiled(text).diagnostics
    assert [(d.name, d.span.line) for d in found] == [("syntax", 4), ("unknown-name", 4)]
    assert found[0].notes[0][1] == Span("main.pol", 2, 31, 2, 32)


def test_a_mistake_behind_a_block_costs_its_rule(compiled) -> None:
    text = (
        'policy p for host { ingress {\nallow from any on tcp/80 http { GET "/" } as tcp/80\nallow from nobody\n} }\n'
    )
    found = compiled(text).diagnostics
    assert [(d.name, d.span.line) for d in found] == [("syntax", 2), ("unknown-name", 3)]


def test_a_block_that_is_not_opened(compiled) -> None:
    found = compiled(around('http GET "a" }\nallow from nobody')).diagnostics
    assert [(d.name, d.span.line) for d in found] == [("syntax", 2), ("bad-path", 2), ("unknown-name", 3)]


# --- requests of expectations ------------------------------------------------------------------------------------


def expectation(compiled, request: str, block: str = "http { GET deny PUT }") -> LoadResult:
    return compiled(f'{around(block)}test "t" {{\ndeny 192.0.2.1 -> host {request}\n}}\n')


def test_requests(compiled) -> None:
    policy = expectation(
        compiled, 'tcp/80, tcp/90-91 GET "/a?b=%20" header "X-A" "1" host "x:80" header "x-a" ""'
    ).policy
    [found] = policy.tests[0].expectations
    assert found.http == HttpExpectation("GET", "/a?b=%20", "x:80", (("X-A", "1"), ("x-a", "")))
    assert found.span == Span("main.pol", 5, 1, 5, 101)


@pytest.mark.parametrize(
    "target", ["/", "*", "http://x/y", "https://x", "x:443", "/a/../b", "/a#b", "//", "/%00", "/\u00e9"]
)
def test_targets_may_be_malformed(compiled, target: str) -> None:
    assert expectation(compiled, f'tcp/80 GET "{target}"').diagnostics == []


@pytest.mark.parametrize("target", ["", "a", "ftp://x", "/a b", "?x", "/\t", "**"])
def test_targets_that_cannot_be_sent(compiled, target: str) -> None:
    assert [d.name for d in expectation(compiled, f'tcp/80 GET "{target}"').diagnostics] == ["bad-target"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ('udp/80 GET "/"', ["request-service"]),
        ('any GET "/"', ["request-service"]),
        ('tcp/80 get "/"', ["bad-method"]),
        ('tcp/80 GET "/" header "a b" "1"', ["bad-header"]),
        ('tcp/80 GET "/" host "a" host "b"', ["duplicate-condition"]),
        ('tcp/80 * "/"', ["syntax"]),
        ("tcp/80 GET", ["syntax"]),
        ('tcp/80 produce topic "x", "y"', ["not-there-yet"]),
        ('tcp/80 name "x.y" by nobody', ["not-there-yet"]),
    ],
)
def test_mistakes_in_requests(compiled, request_: str, expected: list[str]) -> None:
    assert [d.name for d in expectation(compiled, request_).diagnostics] == expected


@pytest.mark.parametrize("by", ["p.ingress.1", "p.ingress.1.1", "p.ingress.1.2"])
def test_entries_have_references(compiled, by: str) -> None:
    policy = expectation(compiled, f'tcp/80 PUT "/" by {by}').policy
    assert policy.tests[0].expectations[0].by == by


@pytest.mark.parametrize(
    ("block", "by", "help"),
    [
        ("http { GET deny PUT }", "p.ingress.1.3", "has no entry of this number"),
        ("http { GET deny PUT }", "p.ingress.1.0", "has no entry of this number"),
        ("", "p.ingress.1.1", "has no block"),
    ],
)
def test_references_to_entries_that_are_not_there(compiled, block: str, by: str, help: str) -> None:
    [found] = expectation(compiled, f'tcp/80 PUT "/" by {by}', block).diagnostics
    assert found.name == "unknown-reference"
    assert help in found.help


def test_the_deny_entries_are_denies(entries) -> None:
    assert [e.action for e in entries("deny GET allow PUT HEAD")] == [Action.DENY, Action.ALLOW, Action.ALLOW]
