"""The click group, exit codes, and what becomes of errors.

Commands live in `policyc.cli.NAME` as `command` and are imported when they are called, so that `policyc check` loads
neither the code generator nor the loader. A command returns its exit code, or None for 0.

Exit codes: 0 done and clean; 1 findings, failed tests, differences, bad input lines; 2 usage, or source or artifact
invalid; 3 permission or kernel feature missing; 4 a bug of policyc.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import IO, Any

import click

import policyc
from policyc.cli.output import document, plain, shown
from policyc.cli.session import COLOR_MODES, ColorMode, Session
from policyc.diagnostics import OperationError, PolicyError

COMMANDS = {
    "init": "Write a small policy, endpoints and flows to start from.",
    "check": "Check policy files and report findings.",
    "fmt": "Format policy files.",
    "test": "Run the test blocks of policy files.",
    "compile": "Compile policy files into one object.",
    "inspect": "Show what an object contains.",
    "eval": "Judge flows by a policy or an object.",
    "load": "Load an object, attach it and enforce it.",
    "status": "Show what is loaded and attached.",
    "endpoint": "Add, remove and list endpoints of a load.",
    "host": "Refresh this machine's addresses in a load.",
    "counters": "Show packets, bytes and connections by rule.",
    "monitor": "Follow verdicts as they happen.",
    "unload": "Detach a load and leave nothing behind.",
    "doctor": "Check what this machine needs to load programs.",
    "completion": "Print the completion script of a shell.",
}
COMPLETION = "_POLICYC_COMPLETE"  # the variable that a shell's completion script sets
USAGE, BUG, INTERRUPTED, PIPE_CLOSED = 2, 4, 130, 141
OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a write to standard output


class PipeClosed(Exception):
    """Whoever read our output has gone. Click would turn the system's error into exit code 1."""


class Commands(click.Group):
    """A group whose commands are imported on demand; their one-line helps stand in `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"policyc.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        command.name = cmd_name
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            raise PipeClosed from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(error.message + _near(args[0]), ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _near(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, 1)
    return f" Did you mean '{near[0]}'?" if near else ""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--color", type=click.Choice(COLOR_MODES), default="auto", show_default=True, help="Colours in the output."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
@click.version_option(policyc.__version__, prog_name="policyc", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, color: ColorMode, debug: bool) -> None:
    """Compile network policy to eBPF, load it, and see what it decides."""
    session = ctx.ensure_object(Session)
    session.color, session.debug = color, debug
    ctx.color = session.wants_color()


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def _open_missing_streams() -> None:
    """Streams that were closed by the caller become /dev/null, so that no file we open takes their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Nothing but `SystemExit` leaves it."""
    session = Session()
    instruction = os.environ.get(COMPLETION)
    try:
        if instruction:
            return _complete(instruction)
        return _exit_code(cli.main(arguments, prog_name="policyc", standalone_mode=False, obj=session))
    except PipeClosed:
        _discard(sys.stdout)
        return PIPE_CLOSED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        _told(error.show)
        return USAGE
    except PolicyError as error:
        _told(_report_policy, error, session)
        return error.exit_code
    except OperationError as error:
        _told(_report_operation, error, session)
        return error.exit_code
    except MemoryError:
        _told(_report_operation, OperationError("there is not enough memory for this"), session)
        return USAGE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS and error.filename is None:
            _discard(sys.stdout)
            session.json = False
            _told(_report_operation, OperationError(f"the output cannot be written: {error.strerror}"), session)
            return USAGE
        _told(_report_bug, error, session)
        return BUG


def _told(report: Callable[..., None], *arguments: object) -> None:
    """Reports an error; where nobody can be told, the exit code alone has to say it."""
    try:
        report(*arguments)
    except OSError as error:
        if error.errno not in (*OUTPUT_ERRORS, errno.EPIPE):
            raise
        _discard(sys.stdout)
        _discard(sys.stderr)


def _complete(instruction: str) -> int:
    """What a shell's completion script asks for, in variables of its own."""
    from click.shell_completion import shell_complete

    try:
        return USAGE if shell_complete(cli, {}, "policyc", COMPLETION, instruction) else 0
    except (KeyError, ValueError):  # the variables are missing, or are not what a shell sets
        return USAGE


def _discard(stream: IO[str]) -> None:
    """Python flushes streams once more at exit; there it must find somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _exit_code(result: Any) -> int:
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _report_policy(error: PolicyError, session: Session) -> None:
    from policyc.render import render, render_json

    if session.json:
        click.echo(render_json(error.diagnostics), nl=False)
        return
    text = render(error.diagnostics, error.sources, session.colors(sys.stderr), shown(error.root))
    click.echo(text.rstrip("\n"), err=True, color=True)


def _report_operation(error: OperationError, session: Session) -> None:
    if session.json:
        document("policyc-error", message=error.message, help=error.help, exit_code=error.exit_code)
        return
    colors = session.colors(sys.stderr)
    click.echo(f"{click.style('error:', fg='red', bold=True)} {_plain_lines(error.message)}", err=True, color=colors)
    if error.help:
        click.echo(f"{click.style('help:', fg='cyan')} {_plain_lines(error.help)}", err=True, color=colors)


def _plain_lines(text: str) -> str:
    """Lines stay lines; whatever else could move the cursor is escaped."""
    return "\n".join(plain(line.expandtabs()) for line in text.split("\n"))


def _report_bug(error: Exception, session: Session) -> None:
    if session.debug:
        traceback.print_exc()
    summary = plain(" ".join(str(error).split())[:200])
    click.echo(f"internal error: {type(error).__name__}: {summary}", err=True)
    hint = "" if session.debug else ", with what `policyc --debug …` prints"
    click.echo(f"This is a bug of policyc {policyc.__version__}; please report it{hint}.", err=True)


if __name__ == "__main__":
    main()
