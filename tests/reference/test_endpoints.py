"""The endpoints file: its two forms, and a diagnostic with a place for every mistake."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.diagnostics import PolicyError
from policyc.endpoints import CODES, EndpointsFile, load, load_or_raise, parse
from tests.reference.builders import addr, ep

GOOD = """\
version: 1
host: [192.168.0.1, 2001:db8::1]
endpoints:
  - name: web
    addresses: [10.0.0.1, 2001:1:2:3:4:5:6:7]
    labels: {app: web, version: "1.10", "on": "true", k8s-app: kube-dns}
    interface: veth0
  - {name: pg, labels: {}, cgroup: /system.slice/pg.service}
"""


def found(text: str) -> list[tuple[str, int, int]]:
    file, diagnostics = parse(text, "e.yaml")
    assert (file is None) == bool(diagnostics)
    return [(d.code, d.span.line, d.span.column) for d in diagnostics if d.span]


def test_the_whole_form() -> None:
    file, diagnostics = parse(GOOD, "e.yaml")
    assert diagnostics == []
    assert file is not None
    assert file.host == (addr("192.168.0.1"), addr("2001:db8::1"))
    web, pg = file.endpoints
    assert web.addresses == (addr("10.0.0.1"), addr("2001:1:2:3:4:5:6:7"))
    assert web.labels == {"app": "web", "version": "1.10", "on": "true", "k8s-app": "kube-dns"}
    assert (web.interface, pg.cgroup) == ("veth0", "/system.slice/pg.service")


@pytest.mark.parametrize(
    "text", ["[]", "version: 1\nendpoints: []", '{"version":1,"endpoints":[]}', "- \n" * 0 + "[ ]"]
)
def test_no_endpoints(text: str) -> None:
    assert parse(text, "e") == (EndpointsFile(), [])


def test_json_with_tabs_escapes_and_pairs() -> None:
    data = [{"name": "\U0001f600 é", "addresses": ["::1"], "labels": {"a/b": "\\x"}}]
    file, diagnostics = parse(json.dumps(data, indent="\t"), "e.json")
    assert diagnostics == []
    assert file is not None
    assert file.endpoints[0].name == "\U0001f600 é"
    assert file.endpoints[0].labels == {"a/b": "\\x"}


def one(line: str) -> str:
    return f"- {{name: a, {line}}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [("P5004", 1, 1)]),
        ("just text", [("P5004", 1, 1)]),
        ("{", [("P5002", 1, 2)]),
        ("a: [", [("P5002", 1, 5)]),
        ("version: 2\nendpoints: []", [("P5005", 1, 10)]),
        ('version: "1"\nendpoints: []', [("P5005", 1, 10)]),
        ("endpoints: []", [("P5008", 1, 1)]),
        ("version: 1\nendpoints: []\nhosts: []", [("P5006", 3, 1)]),
        ("version: 1\nversion: 1\nendpoints: []", [("P5007", 2, 1)]),
        ("version: 1\nendpoints: {}", [("P5004", 2, 12)]),
        ("version: 1\nhost: 10.0.0.1\nendpoints: []", [("P5004", 2, 7)]),
        ("- text", [("P5004", 1, 3)]),
        ("- {labels: {}, addresses: [10.0.0.1]}", [("P5008", 1, 3)]),
        (one("addresses: [10.0.0.1]"), [("P5008", 1, 3)]),
        (one("labels: {}"), [("P5015", 1, 10)]),
        (one("labels: {}, addresses: []"), [("P5015", 1, 10)]),
        (one("labels: {}, interface: veth0"), [("P5015", 1, 10)]),
        (one("labels: {}, addresses: [10.0.0.0/8]"), [("P5012", 1, 37)]),
        (one("labels: {}, addresses: [10.0.0.256]"), [("P5012", 1, 37)]),
        (one("labels: {}, addresses: ['fe80::1%eth0']"), [("P5012", 1, 37)]),
        (one("labels: {}, addresses: ['::ffff:10.0.0.1']"), [("P5013", 1, 37)]),
        (one("labels: {}, addresses: [10.0.0.1, 10.0.0.1]"), [("P5014", 1, 47)]),
        (one("labels: {a: 1}, cgroup: /a"), [("P5009", 1, 25)]),
        (one("labels: {a: true}, cgroup: /a"), [("P5009", 1, 25)]),
        (one("labels: {1: a}, cgroup: /a"), [("P5009", 1, 22)]),
        (one("labels: {a: }, cgroup: /a"), [("P5009", 1, 25)]),
        (one("labels: {a: 2001-01-01}, cgroup: /a"), [("P5009", 1, 25)]),
        (one("labels: {a: [b]}, cgroup: /a"), [("P5004", 1, 25)]),
        (one("labels: {a: b, a: c}, cgroup: /a"), [("P5007", 1, 28)]),
        (one("labels: [a], cgroup: /a"), [("P5004", 1, 21)]),
        (one("labels: {}, cgroup: ''"), [("P5017", 1, 33)]),
        (one("labels: {}, cgroup: /a/../b"), [("P5017", 1, 33)]),
        (one("labels: {}, cgroup: /a, interface: a-name-that-is-too-long"), [("P5017", 1, 48)]),
        (one("labels: {}, cgroup: /a, interface: a/b"), [("P5017", 1, 48)]),
        ("- {name: '', labels: {}, cgroup: /a}", [("P5010", 1, 10)]),
        ("- {name: host, labels: {}, cgroup: /a}", [("P5010", 1, 10)]),
        ("- {name: 10.0.0.1, labels: {}, cgroup: /a}", [("P5010", 1, 10)]),
        ("- {name: 80, labels: {}, cgroup: /a}", [("P5009", 1, 10)]),
        ('- {name: "a\\nb", labels: {}, cgroup: /a}', [("P5016", 1, 10)]),
        ('- {name: "a\\u202eb", labels: {}, cgroup: /a}', [("P5016", 1, 10)]),
        ("- &a {name: b}", [("P5003", 1, 3)]),
        ("- *a", [("P5003", 1, 3)]),
        ("- !!python/object:os.system {}", [("P5003", 1, 3)]),
        ("[]\n---\n[]", [("P5003", 2, 1)]),
        ("[" * 900, [("P5003", 1, 17)]),
        ("- " * 5000 + "a", [("P5003", 1, 33)]),
    ],
)
def test_mistakes(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert found(text) == expected


def test_several_mistakes_in_one_run_name_the_holder_and_what_was_meant() -> None:
    text = """\
- {name: a, addresses: [10.0.0.1], labels: {app: yes}}
- {name: b, adresses: [10.0.0.2], labels: {}}
- {name: a, addresses: [10.0.0.1], labels: {}}
"""
    _, diagnostics = parse(text, "e.yaml")
    assert [d.code for d in diagnostics] == ["P5009", "P5006", "P5011", "P5014"]
    assert diagnostics[0].help == 'quote it: "yes"'
    assert diagnostics[1].suggestion == "addresses"
    assert "`a`" in diagnostics[3].message
    assert [str(s) for _, s in diagnostics[3].notes] == ["e.yaml:1:25"]


def test_nesting_cannot_blow_up() -> None:
    """PyYAML 6.0.4 has a limit of its own, beyond ours, and reads no further than that."""
    assert found("[" * 100000) in ([("P5003", 1, 17)], [("P5002", 1, 1001)])


def test_aliases_cannot_blow_up() -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    assert found(bomb) == [("P5003", 1, 4)]


def test_attachments_belong_to_one_endpoint() -> None:
    text = "- {name: a, labels: {}, cgroup: /a}\n- {name: b, labels: {}, cgroup: /a}"
    assert found(text) == [("P5018", 2, 33)]


def test_every_code_has_a_name_and_is_used_once() -> None:
    assert len({name for name, _ in CODES.values()}) == len(CODES)


@pytest.mark.parametrize("data", [b"\xff", b"a\x00", b"\xef\xbb\xbf{"])
def test_bad_bytes_are_diagnostics(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "e.yaml"
    path.write_bytes(data)
    assert load(str(path)).diagnostics
    with pytest.raises(PolicyError):
        load_or_raise(str(path))


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\x00b"])
def test_unreadable_files(tmp_path: Path, name: str) -> None:
    assert [d.code for d in load(f"{tmp_path}/{name}").diagnostics] == ["P5001"]


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [d.message for d in load(str(tmp_path / "pipe")).diagnostics] == [f"{tmp_path}/pipe is not a regular file"]


def test_a_raised_error_has_the_text_for_its_rendering(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("version: 2\nendpoints: []\n")
    with pytest.raises(PolicyError) as caught:
        load_or_raise(str(path))
    assert caught.value.sources == {str(path): "version: 2\nendpoints: []\n"}


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert len(load_or_raise(str(path)).endpoints) == 2


@given(st.text(alphabet="-:{}[],&*!|>'\"\\#%@` \n\ta1.~?", max_size=40))
def test_no_text_raises(text: str) -> None:
    parse(text, "e")


@given(st.data())
def test_no_damaged_file_raises(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD)))
    parse(GOOD[:at] + data.draw(st.text(max_size=3)) + GOOD[at + data.draw(st.integers(0, 5)) :], "e")


def test_endpoints_are_equal_to_built_ones() -> None:
    file, _ = parse(one("labels: {app: web}, addresses: [10.0.0.1]"), "e")
    assert file is not None
    assert file.endpoints == (ep("a", "10.0.0.1", app="web"),)
