"""Which engine judges: `--engine` of `eval` and `test`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from policyc.driver import Checked, emit

if TYPE_CHECKING:
    from policyc.artifact.reader import Artifact
    from policyc.engine import EngineFactory

engine_option = click.option(
    "--engine",
    type=click.Choice(["reference", "kernel"]),
    default="reference",
    show_default=True,
    help="The reference evaluator, or the compiled program in this machine's kernel.",
)


def engine_factory(name: str, artifact: Callable[[], Artifact]) -> EngineFactory:
    """The engine of that name; the kernel's runs what `artifact` gives.

    Raises `OperationError` (3) where the kernel cannot be used."""
    if name == "reference":
        from policyc.engine import ReferenceEngine

        return ReferenceEngine
    from policyc import kernel_engine

    return kernel_engine.engine_factory(artifact())


def compiled(checked: Checked) -> Artifact:
    """The artifact of checked files, in memory."""
    from policyc.artifact.reader import read

    return read(emit(checked, "obj"))
