"""`policyc completion`."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    For bash: `policyc completion bash > /etc/bash_completion.d/policyc`.
    """
    from policyc.cli.main import COMPLETION

    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(ctx.find_root().command, {}, "policyc", COMPLETION)
    # The script is only printed: the check that this machine's bash is new enough would be out of place.
    click.echo(ShellComplete.source(completion))
