"""Files are read only below the root, and nothing of a refused file is shown."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from policyc.frontend import LoadResult, load
from policyc.render import render

SECRET = "hunter2-do-not-show"


def refused(result: LoadResult) -> list[str]:
    """The names of the diagnostics, after a check that nothing secret is in what is shown."""
    assert result.policy is None
    assert SECRET not in render(result.diagnostics, result.sources)
    assert not any(SECRET in text for text in result.sources.values())
    return [d.name for d in result.diagnostics]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder `root` beside a secret that is also a policy that does not parse."""
    (tmp_path / "secret.txt").write_text(f"{SECRET} {{ [\n")
    (tmp_path / "root" / "feeds").mkdir(parents=True)
    return tmp_path / "root"


def write(tree: Path, text: str, name: str = "main.pol") -> str:
    (tree / name).write_text(text)
    return str(tree / name)


@pytest.mark.parametrize("verb", ["include", "cidr a = [ file"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../secret.txt", "outside-root"),
        ("feeds/../../secret.txt", "outside-root"),
        ("/etc/hostname", "outside-root"),
        ("link.txt", "outside-root"),
        ("folder/secret.txt", "outside-root"),
        ("feeds", "not-a-file"),
        ("fifo", "not-a-file"),
        ("device", "outside-root"),
        ("missing.txt", "unreadable-file"),
        ("", "unreadable-file"),
        ("latin1.txt", "bad-encoding"),
        ("big.txt", "file-too-large"),
    ],
)
def test_refused(tree: Path, verb: str, name: str, expected: str) -> None:
    (tree / "link.txt").symlink_to(tree.parent / "secret.txt")
    (tree / "folder").symlink_to(tree.parent)
    (tree / "device").symlink_to("/dev/zero")
    os.mkfifo(tree / "fifo")
    (tree / "latin1.txt").write_bytes(f"{SECRET} caf".encode() + b"\xe9\n")
    with open(tree / "big.txt", "wb") as file:
        file.truncate((64 << 20) + 1)
    end = "" if verb == "include" else " ]"
    result = load([write(tree, f'{verb} "{name}"{end}\n')])
    assert refused(result) == [expected]
    assert result.diagnostics[0].span is not None


def test_a_given_file_that_is_not_there_has_no_span(tree: Path) -> None:
    result = load([str(tree / "none.pol")])
    assert refused(result) == ["unreadable-file"]
    assert result.diagnostics[0].span is None


def test_a_given_file_outside_a_given_root(tree: Path) -> None:
    assert refused(load([str(tree.parent / "secret.txt")], root=str(tree))) == ["outside-root"]


def test_a_root_that_is_no_folder(tree: Path) -> None:
    assert refused(load([write(tree, "")], root=str(tree / "nowhere"))) == ["unreadable-file"]


def test_a_name_that_is_not_utf8_cannot_stand_in_an_artifact(tree: Path) -> None:
    assert refused(load([write(tree, "", "caf\udce9.pol")])) == ["unreadable-file"]


def test_a_folder_that_was_removed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "gone").mkdir()
    monkeypatch.chdir(tree / "gone")
    (tree / "gone").rmdir()
    assert refused(load(["x.pol"])) == ["unreadable-file"]
    assert refused(load(["x.pol"], root=".")) == ["unreadable-file"]
    assert refused(load(["x.pol"], root=str(tree))) == ["unreadable-file"]


def test_links_inside_the_root_and_a_wider_root(tree: Path) -> None:
    (tree / "feeds" / "a.txt").write_text("10.0.0.0/8\n")
    (tree / "here.txt").symlink_to(tree / "feeds" / "a.txt")
    (tree / "sub").mkdir()
    text = 'cidr a = [ file "here.txt" ]\npolicy p for host { ingress { allow from a } }\n'
    assert load([write(tree, text)]).diagnostics == []
    result = load([write(tree, text.replace("here.txt", "../here.txt"), "sub/x.pol")], root=str(tree))
    assert [d.name for d in result.diagnostics] == ["outside-root"]


def test_names_are_relative_to_the_file_that_says_them(tree: Path) -> None:
    (tree / "feeds" / "inner.pol").write_text('cidr a = [ file "x.txt" ]\n')
    (tree / "feeds" / "x.txt").write_text("10.0.0.0/8\n")
    result = load([write(tree, 'include "feeds/inner.pol"\npolicy p for host { ingress { allow from a } }\n')])
    assert result.diagnostics == []
    assert result.policy is not None
    assert [name for name, _ in result.policy.files] == ["feeds/inner.pol", "main.pol", "feeds/x.txt"]
    assert set(result.sources) == {"feeds/inner.pol", "main.pol", "feeds/x.txt"}


def test_byte_order_mark_and_crlf(tree: Path) -> None:
    (tree / "main.pol").write_bytes(b"\xef\xbb\xbflanguage 1\r\npolicy p for host {\r\n egress {}\r\n}\r\n")
    assert load([str(tree / "main.pol")]).diagnostics == []


# --- includes


def test_included_twice_counts_once(tree: Path) -> None:
    write(tree, "identity web { app == web }\npolicy w for web { ingress {} }\n", "base.pol")
    write(tree, 'include "base.pol"\npolicy a for web { egress {} }\n', "a.pol")
    main = write(tree, 'include "base.pol"\ninclude "a.pol"\ninclude "./base.pol"\npolicy b for web { egress {} }\n')
    result = load([main, str(tree / "a.pol")])
    assert result.diagnostics == []
    assert result.policy is not None
    assert [p.name for p in result.policy.policies] == ["w", "a", "b"]


def test_cycles(tree: Path) -> None:
    write(tree, 'include "main.pol"\n', "b.pol")
    main = write(tree, 'include "b.pol"\ninclude "main.pol"\npolicy p for host { egress {} }\n')
    assert [(d.name, d.span.file, d.span.line) for d in load([main]).diagnostics if d.span] == [
        ("include-cycle", "main.pol", 2),
        ("include-cycle", "b.pol", 1),
    ]


def test_names_are_local_to_a_file_and_what_it_includes(tree: Path) -> None:
    a = write(tree, "identity web { app == web }\npolicy a for web { egress {} }\n", "a.pol")
    b = write(tree, "identity web { app == other }\npolicy b for web { egress {} }\n", "b.pol")
    c = write(tree, "policy c for web { egress {} }\n", "c.pol")
    assert load([a, b]).diagnostics == []
    assert [d.name for d in load([a, c]).diagnostics] == ["unknown-name"]


def test_two_includes_with_one_name(tree: Path) -> None:
    write(tree, "identity web { app == web }\n", "a.pol")
    write(tree, "identity web { app == other }\n", "b.pol")
    main = write(tree, 'include "a.pol"\ninclude "b.pol"\npolicy p for web { egress {} }\n')
    [found] = load([main]).diagnostics
    assert found.name == "duplicate-name"
    assert str(found.span) == "main.pol:2:9"
    assert [str(span) for _, span in found.notes] == ["a.pol:1:10", "b.pol:1:10"]


def test_a_clash_is_told_where_it_arises_and_not_again(tree: Path) -> None:
    for name in ("one", "two"):
        (tree / f"{name}.pol").write_text("cidr a = [ 10.0.0.0/8 ]\n")
    (tree / "both.pol").write_text('include "one.pol"\ninclude "two.pol"\n')
    result = load([write(tree, 'include "both.pol"\ninclude "one.pol"\ninclude "two.pol"\n')])
    assert [(d.name, d.span and d.span.file) for d in result.diagnostics] == [("duplicate-name", "both.pol")]


def test_many_includes_of_many_do_not_multiply(tree: Path) -> None:
    for i in range(60):
        names = "".join(f"identity i{i}x{k} {{ app == v{k} }}\n" for k in range(60))
        (tree / f"f{i}.pol").write_text("".join(f'include "f{j}.pol"\n' for j in range(i)) + names)
    begun = time.monotonic()
    result = load([write(tree, 'include "f59.pol"\npolicy p for i0x0 { ingress { allow from i59x59 } }\n')])
    assert result.diagnostics == []
    assert time.monotonic() - begun < 5


def test_policy_names_are_unique_over_files(tree: Path) -> None:
    a = write(tree, "policy p for host { egress {} }\n", "a.pol")
    b = write(tree, "policy p for host { ingress {} }\n", "b.pol")
    assert [d.name for d in load([a, b]).diagnostics] == ["duplicate-policy"]


def test_a_lost_include_does_not_make_names_unknown(tree: Path) -> None:
    main = write(tree, 'include "gone.pol"\npolicy p for web { ingress { allow from x on y } }\n')
    assert [d.name for d in load([main]).diagnostics] == ["unreadable-file"]


def test_unused_names_of_included_files_are_fine(tree: Path) -> None:
    write(tree, "identity a { app == a }\nidentity b { app == b }\n", "base.pol")
    main = write(tree, 'include "base.pol"\npolicy p for a { egress {} }\n')
    assert load([main]).diagnostics == []
    assert [d.name for d in load([main, str(tree / "base.pol")]).diagnostics] == ["unused-name"]


# --- feeds


def test_feed_lines(tree: Path) -> None:
    feed = "\ufeff10.0.0.0/9 ; a\r\n10.128.0.0/9#b\r\n\r\n ; c\n192.0.2.1 - 192.0.2.9\n2001:db8::/32\n::1-::5\n"
    (tree / "feeds" / "f.txt").write_text(feed)
    result = load([write(tree, 'cidr a = [ file "feeds/f.txt" ]\npolicy p for host { ingress { allow from a } }\n')])
    assert result.diagnostics == []
    assert result.policy is not None
    addresses = result.policy.rules[0].peers[0].addresses
    assert addresses.v4 == ((0x0A000000, 0x0AFFFFFF), (0xC0000201, 0xC0000209))
    assert addresses.v6 == ((1, 5), (0x20010DB8 << 96, (0x20010DB9 << 96) - 1))
    assert result.policy.prefixes == addresses


@pytest.mark.parametrize(
    ("line", "name", "column"),
    [
        ("10.0.0.1/8", "host-bits", 1),
        ("  10.0.0.9-10.0.0.1", "inverted-range", 3),
        ("10.0.0.1-::1", "bad-feed-line", 1),
        ("::ffff:10.0.0.1", "mapped-address", 1),
        ("nonsense", "bad-feed-line", 1),
        ("10.0.0.0/33", "bad-feed-line", 1),
        ("10.0.0.1 10.0.0.2", "bad-feed-line", 1),
        ("10.0.0.\u202e1", "bad-feed-line", 1),
    ],
)
def test_bad_feed_lines(tree: Path, line: str, name: str, column: int) -> None:
    (tree / "f.txt").write_text(f"# feed\n{line} # why\n", encoding="utf-8")
    found = load(
        [write(tree, 'cidr a = [ file "f.txt" ]\npolicy p for host { ingress { allow from a } }\n')]
    ).diagnostics
    assert name in [d.name for d in found]
    assert {str(d.span) for d in found if d.name == name} == {f"f.txt:2:{column}"}


def test_many_bad_feed_lines_are_cut(tree: Path) -> None:
    (tree / "f.txt").write_text("x\n" * 1000)
    assert len(load([write(tree, 'cidr a = [ file "f.txt" ]\n')]).diagnostics) == 20
