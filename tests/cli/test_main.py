"""Exit codes, what becomes of errors, colours, and that a command loads only what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from policyc.cli import main
from policyc.diagnostics import OperationError
from tests.cli.run import policyc


def test_help_lists_every_command_without_importing_one() -> None:
    code = (
        "import sys; from policyc.cli.main import run, COMMANDS; run(['--help']);"
        "print([name for name in COMMANDS if f'policyc.cli.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert all(f"  {name} " in done.stdout for name in main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_is_there_and_has_help(name: str) -> None:
    done = policyc(name, "--help")
    assert done.code == 0
    assert f"policyc {name}" in done.out


def test_version() -> None:
    assert policyc("--version").out.startswith("policyc ")


@pytest.mark.parametrize("arguments", [["chekc"], ["check"], ["check", "--nope", "x"], ["--color", "red", "check"], []])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    done = policyc(*arguments)
    assert done.code == 2
    assert "Usage" in done.err


def test_a_mistyped_command_gets_a_hint() -> None:
    assert "Did you mean 'check'?" in policyc("chekc").err


def failing(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Makes `status` raise."""

    def install(error: BaseException) -> None:
        monkeypatch.setattr(main.Commands, "get_command", lambda *_: failing(error))

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OperationError("no", "do this", 3), 3),
        (OperationError("no\x1b[2J\nverifier says \x07"), 2),
        (ValueError("boom\x1b[31m"), 4),
        (RecursionError(), 4),
        (KeyboardInterrupt(), 130),
        (click.exceptions.Exit(1), 1),
    ],
)
def test_exit_codes(fails, error: BaseException, code: int) -> None:  # type: ignore[no-untyped-def]
    fails(error)
    done = policyc("status")
    assert done.code == code
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    if code == 4:
        assert "please report" in done.err


def test_debug_shows_the_traceback(fails) -> None:  # type: ignore[no-untyped-def]
    fails(ValueError("boom"))
    done = policyc("--debug", "status")
    assert done.code == 4
    assert "Traceback" in done.err


def test_help_of_an_operation_error_is_printed(fails) -> None:  # type: ignore[no-untyped-def]
    fails(OperationError("it failed", "mend it", 3))
    assert policyc("status").err == "error: it failed\nhelp: mend it\n"


@pytest.mark.parametrize(
    ("options", "environment", "terminal", "colored"),
    [
        ([], {}, True, True),
        ([], {}, False, False),
        ([], {"NO_COLOR": "1"}, True, False),
        (["--color", "always"], {"NO_COLOR": "1"}, False, True),
        (["--color", "never"], {}, True, False),
        ([], {"TERM": "dumb"}, True, False),
    ],
)
def test_colors(fails, monkeypatch, options, environment, terminal, colored) -> None:  # type: ignore[no-untyped-def]
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fails(OperationError("it failed"))
    assert ("\x1b[" in policyc(*options, "status", terminal=terminal).err) is colored


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "policyc", "completion", "bash"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["completion", "bash"], ["--help"]])
def test_a_full_disk_is_no_bug(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "policyc", *arguments], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr == b"error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_bug(closed: str, tmp_path: Path) -> None:
    source = tmp_path / "x.pol"
    source.write_text("policy p for host { ingress { allow from any } }\n")
    command = f'"{sys.executable}" -m policyc'
    for arguments in (f'check "{source}"', f'eval "{source}"', f'compile "{source}" -o "{tmp_path}/x.o"', "fmt -"):
        done = subprocess.run(
            ["sh", "-c", f"{command} {arguments} {closed}"], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), arguments


def test_text_that_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "policyc", "inspect", tmp_path / "nö.o"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_POLICYC_COMPLETE" in policyc("completion", shell).out


def test_completion_offers_commands() -> None:
    environment = os.environ | {"_POLICYC_COMPLETE": "bash_complete", "COMP_WORDS": "policyc ins", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "policyc"], env=environment, capture_output=True, text=True, check=False
    )
    assert "inspect" in done.stdout
