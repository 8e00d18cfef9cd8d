"""Arguments, environment and streams as nobody should set them: the documented exit codes, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.robustness.command import policyc

LONG = "x" * 5_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.pol").write_text("policy p for host { egress {} }\n")
    (tmp_path / "bad.pol").write_text("policy p for nobody {}\n")
    return tmp_path


@pytest.mark.parametrize("arguments", [("test", "bad.pol"), ("tset",), ("inspect", "good.pol")])
def test_the_exit_code_stays_where_errors_cannot_be_written(arguments: tuple[str, ...], folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        assert policyc(*arguments, folder=folder, stderr=full).returncode == 2
        assert policyc(*arguments, folder=folder, stdout=full, stderr=full).returncode == 2


@pytest.mark.parametrize("arguments", [("check", "bad.pol"), ("--help",)])
def test_a_full_disk_behind_standard_output(arguments: tuple[str, ...], folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = policyc(*arguments, folder=folder, stdout=full)
    assert done.returncode == 2
    assert b"cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"_POLICYC_COMPLETE": "bash_complete"}, 2),
        ({"_POLICYC_COMPLETE": "bash_complete", "COMP_WORDS": "policyc 'che", "COMP_CWORD": "x"}, 2),
        ({"_POLICYC_COMPLETE": "bash_complete", "COMP_WORDS": "policyc che", "COMP_CWORD": "1"}, 0),
        ({"_POLICYC_COMPLETE": "nonsense"}, 2),
    ],
)
def test_completion_asked_for_by_no_shell(variables: dict[str, str], code: int, folder: Path) -> None:
    assert policyc(folder=folder, env=variables).returncode == code


@pytest.mark.parametrize(
    "arguments",
    [
        ("init", LONG), ("check", LONG), ("compile", "good.pol", "-o", LONG), ("eval", "good.pol", "--flows", LONG),
        ("eval", "good.pol", "--endpoints", LONG), ("check", "--root", LONG, "good.pol"),
        ("check", b"\xff\xfe.pol"), (b"\xff",), ("compile", "good.pol", "-o", ""),
        ("check", "--format", b"\xff", "good.pol"), ("endpoint", "list", "../.."),
        ("monitor", b"\xff/\n"), ("fmt", "/dev/zero"), ("check", "/dev/zero"),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_that_name_nothing(arguments: tuple[str | bytes, ...], folder: Path) -> None:
    elsewhere = {"POLICYC_STATE": str(folder / "state"), "POLICYC_BPFFS": str(folder / "bpffs")}
    done = policyc(*arguments, folder=folder, env=elsewhere)
    assert done.returncode in (2, 3)
    assert done.stdout or done.stderr


@pytest.mark.parametrize("value", ["/dev/null", LONG])
def test_state_that_is_nowhere(value: str, folder: Path) -> None:
    for command in (("status",), ("unload", "x")):
        policyc(*command, folder=folder, env={"POLICYC_STATE": value, "POLICYC_BPFFS": value})


def test_an_ascii_locale_and_no_home(folder: Path) -> None:
    (folder / "b.pol").write_text('# é\npolicy p for nobody {}\ntest "\N{GRINNING FACE}" { allow host -> é tcp/80 }\n')
    env = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "HOME": "/nowhere",
        "COLUMNS": "x",
        "TERM": "x",
    }
    done = policyc("check", "b.pol", folder=folder, env=env)
    assert done.returncode == 2
    assert done.stdout.isascii()
    assert b"b.pol:2:14:" in done.stdout
    assert json.loads(policyc("check", "--format", "json", "b.pol", folder=folder, env=env).stdout)


def test_too_little_memory_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from policyc.cli import check
    from tests.cli.run import policyc as here

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(check.frontend, "load", exhausted)
    done = here("check", folder / "good.pol")
    assert done.code == 2
    assert "not enough memory" in done.err


def test_sources_that_find_no_room_for_the_backend() -> None:
    from policyc.codegen import backend
    from policyc.diagnostics import OperationError

    with pytest.raises(OperationError, match="temporary files") as caught:
        backend.run("", {"x" * 300: "text"})
    assert caught.value.exit_code == 2
