"""One mistake gives one message, and what parsed is still checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyc.grammar import lexer


def test_three_mistakes_in_one_block_give_three_messages(compiled) -> None:
    text = """identity web { app == web }
policy p for web {
  ingress {
    allow from wbe on tcp/80
    allow on tcp/443
    allow from web on tcp/0
    allow from web on tcp/80
  }
}
"""
    found = compiled(text).diagnostics
    assert [(d.name, d.span.line, d.span.column) for d in found] == [
        ("unknown-name", 4, 16),
        ("syntax", 5, 11),
        ("port-zero", 6, 23),
    ]


def test_three_syntax_mistakes_in_one_block(compiled) -> None:
    text = """policy p for endpoints {
  ingress {
    allow from { app == } on tcp/80
    deny from any on tcp/80,
    pass any
    allow from any on tcp/443
  }
  egress {
    allow to 10.0.0.0/33
  }
}
"""
    found = compiled(text).diagnostics
    assert [(d.name, d.span.line) for d in found] == [("syntax", 3), ("syntax", 5), ("syntax", 5), ("bad-address", 9)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("polcy p for host { egress {} }\n", ["policy"]),
        ("policy p for host { ingres {} }\n", ["ingress"]),
        ("policy p for host { ingress { allow form any } }\n", ["from"]),
        ("policy p for host { ingress { alow from any } }\n", ["allow"]),
        ("policy p for host { ingress { allow from any no tcp/80 } }\n", ["on"]),
        ("policy p for host tier admn { ingress {} }\n", ["admin"]),
        ("policy p for host { ingress defualt deny {} }\n", ["default"]),
    ],
)
def test_misspelt_words_are_suggested_and_reading_goes_on(text: str, expected: list[str], compiled) -> None:
    assert [d.suggestion for d in compiled(text).diagnostics] == expected


@pytest.mark.parametrize(
    "text",
    [
        "identity web { app = web }\npolicy p for web { egress {} }\n",
        "identity web app == web }\npolicy p for web { egress {} }\n",
        "identity web { app == }\npolicy p for web { egress {} }\n",
        "cidr net = 10.0.0.0/8\npolicy p for host { ingress { allow from net } }\n",
        "ports web = tcp/80\npolicy p for host { ingress { allow from any on web } }\n",
        "policy p for host { allow from any on tcp/80 allow from any on tcp/443 }\npolicy q for host { egress {} }\n",
        "policy p for host { ingress { allow from any }\npolicy q for host { egress {} }\n",
        "policy p for host { ingress { allow from any } } }\npolicy q for host { egress {} }\n",
        "policy p for host { ingress { allow from { app == web on tcp/80\n allow from any } }\n",
        "policy p for host, { ingress { allow from any } }\n",
        "policy p for host { ingress { allow from any on tcp/80 § log } }\n",
        'test "t" { allow host > host tcp/80 deny host -> 192.0.2.1 }\n',
        'test "t { allow host -> host tcp/80 }\n',
        "policy p { ingress { allow from any on tcp/80 } }\n",
        "policy p for host { ingress { allow from any as log } }\n",
        "policy p for host { ingress { allow from any log on tcp/80\n deny from any } }\n",
        "allow from any\npolicy q for host { egress {} }\n",
        "policy p for host\n  ingress { allow from any }\n}\npolicy q for host { egress {} }\n",
        "policy p for host {\n  ingress\n    allow from any\n  }\n}\npolicy q for host { egress {} }\n",
        "cidr a = [ 10.0.0.0/8,\nidentity z { a == b }\npolicy t for z { egress { deny to a, z } }\n",
        "policy p for host { ingress { allow from any as deny deny from any } }\n",
        "policy p for host { ingress { drop from any } }\n",
        "include 5\npolicy q for unknown { egress {} }\n",
        "identity web { app == w }\npolicy p for web { ingress { allow from not web on tcp/80 } }\n",
        "identity web { app == 'web' }\npolicy p for web { egress {} }\n",
        "policy p for host { ingress { allow from 'x' on tcp/80 } }\n",
        "test 't' { allow host -> host tcp/80 }\npolicy p for host { egress {} }\n",
    ],
)
def test_one_mistake_one_message(text: str, compiled) -> None:
    found = compiled(text).diagnostics
    assert len(found) == 1, [str(d) for d in found]
    assert found[0].severity == "error"


def test_a_broken_header_still_has_its_body_checked(compiled) -> None:
    text = "policy p for host tyer admin, { ingress { allow from wbe\n allow from any on tcp/0 } }\n"
    assert [d.name for d in compiled(text).diagnostics] == ["syntax", "syntax", "unknown-name", "port-zero"]


def test_what_a_broken_rule_was_called_is_not_unknown(compiled) -> None:
    text = 'policy p for host { ingress { allow frm x, as a } }\ntest "t" { allow 192.0.2.1 -> host tcp/80 by p.a }\n'
    assert {d.name for d in compiled(text).diagnostics} <= {"syntax", "unknown-name"}
    assert "unknown-reference" not in {d.name for d in compiled(text).diagnostics}


@pytest.mark.parametrize(
    "text",
    [
        "identity service { service == allow, policy in (ingress, deny), test != from }\n"
        "policy p for service { egress {} }\n",
        "cidr file = [ 10.0.0.0/8 ]\ncidr b = [ file ]\npolicy include for host { ingress { allow from b as tests } }\n",
        'ports admin = [ tcp/80, ]\nidentity language { exists any, not exists log, priority == "1", }\n'
        "policy tests for language { ingress { allow from language, 10.0.0.0/8 on admin, udp/53 } }\n",
    ],
)
def test_words_of_the_language_as_names_labels_and_values(text: str, compiled) -> None:
    assert compiled(text).diagnostics == []


@pytest.mark.parametrize(
    "block",
    [
        'dns answer nxdomain { name "*.prod.svc", "api.stripe.com" }',
        'grpc { service "a.B" method "Get*" deny service "a.B" method "Drop" }',
        'kafka { produce topic "orders" consume topic "p" group "g" client "c" admin api Metadata version 0-13 }',
        "via proxy envoy",
    ],
)
def test_reserved_rule_parts_give_one_message_each(block: str, compiled) -> None:
    text = f"policy p for host {{ ingress {{ allow from any on tcp/80 {block} as a\n deny from nobody }} }}\n"
    assert [d.name for d in compiled(text).diagnostics] == ["not-there-yet", "unknown-name"]


@pytest.mark.parametrize(
    "item",
    [
        "cidr live at load",
        "never web-to-ledger: web -> ledger",
        "always up: { app == web } -> host tcp/443",
        "service shop { vip 10.0.0.1 tcp/80 -> web weight 3 }",
    ],
)
def test_reserved_declarations_give_one_message_each(item: str, compiled) -> None:
    text = f"{item}\nidentity web {{ app == web }}\npolicy p for web {{ ingress {{ allow from nobody }} }}\n"
    assert [d.name for d in compiled(text).diagnostics] == ["not-there-yet", "unknown-name"]


def test_a_set_filled_at_load_is_known(compiled) -> None:
    text = "cidr live at load\npolicy p for host { ingress { deny from world(live) } }\n"
    assert [d.name for d in compiled(text).diagnostics] == ["not-there-yet"]


def test_a_word_left_out_gives_one_message_nearly_always(compiled) -> None:
    counts = []
    for file in sorted((Path(__file__).parents[2] / "examples").glob("*.pol")):
        if "feeds/" in file.read_text():
            continue
        lines = file.read_text().split("\n")
        for token in lexer.tokens("\n".join(lines), "x", [])[0][::7]:
            changed = list(lines)
            line = lines[token.span.line - 1]
            changed[token.span.line - 1] = line[: token.span.column - 1] + line[token.span.end_column - 1 :]
            counts.append(sum(d.severity == "error" for d in compiled("\n".join(changed)).diagnostics))
    assert len(counts) > 80
    assert sum(count <= 1 for count in counts) > 0.9 * len(counts)
