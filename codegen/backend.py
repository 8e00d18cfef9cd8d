"""LLVM's backend in a process of its own: it ends the process on what it cannot select.

Run as `python -m policyc.codegen.backend OUTPUT` it reads LLVM IR from standard input and writes the object (`obj`) or its assembly
(`asm`) to standard output. One run makes one of them: each takes a whole code generation, which moreover changes the module.
Its working directory holds the policy's sources, whose lines LLVM puts into the BTF.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import policyc
from policyc.diagnostics import OperationError

CPU = "v3"
Output = Literal["obj", "asm"]


class Backend:
    """A backend at work: it gets ready while its module is being made. The sources are laid out in a temporary folder, so that no other file's text can get
    into the object and its bytes do not depend on where it is compiled. Raises OperationError where there is no room for temporary files."""

    def __init__(self, sources: dict[str, str], output: Output = "obj") -> None:
        self._resources = ExitStack()
        try:
            folder = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="policyc-"))
            for name, text in sources.items():
                file = Path(folder, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8", newline="")
            self._process = self._resources.enter_context(_started(folder, output))
        except OSError as error:
            self._resources.close()
            raise _no_room(error) from None

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # where no module came to be
        self._resources.close()

    def compile(self, module: str) -> bytes:
        """LLVM IR to an object, or to assembly in UTF-8; once. Raises OperationError with what the backend said before it ended."""
        made, errors = self._process.communicate(module.encode())
        if self._process.returncode:
            said = errors.decode(errors="replace").strip().splitlines()
            raise OperationError(
                f"LLVM could not compile the policy's program: {said[-1] if said else f'exit status {self._process.returncode}'}",
                help="this is a limit of the backend or a bug in policyc; please report it with the policy",
                exit_code=4,
            )
        return made


def run(module: str, sources: dict[str, str], output: Output = "obj") -> bytes:
    """The same for a module that is there."""
    with Backend(sources, output) as backend:
        return backend.compile(module)


def _started(folder: str, output: Output) -> subprocess.Popen[bytes]:
    import_root = str(Path(policyc.__file__).resolve().parents[1])
    path = [import_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "policyc.codegen.backend", output],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"},
    )


def _no_room(error: OSError) -> OperationError:
    reason = error.strerror.lower() if error.strerror else "no room"
    help = "TMPDIR names a folder with room for the policy's sources"
    return OperationError(f"temporary files of the compilation cannot be written: {reason}", help)


def _compile(read: Callable[[], str], output: str) -> bytes:
    """`read` gives the module; what can be done before is done before."""
    import llvmlite.binding as llvm

    # Blocks stay where they were emitted, heads of loops first: kernels before 6.8 refuse a loop whose last block falls
    # through into its first instead of jumping there (check_cfg in kernel/bpf/verifier.c).
    llvm.set_option("policyc", "-disable-block-placement")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("bpfel").create_target_machine(cpu=CPU, opt=2, reloc="static")
    module = llvm.parse_assembly(read())
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    builder = llvm.create_pass_builder(machine, options)
    passes = llvm.create_new_module_pass_manager()
    # Registers instead of stack slots and no more: the rest of the middle end is slow on match code and can
    # merge loads into what the verifier refuses.
    passes.add_sroa_pass()
    passes.run(module, builder)
    if output == "asm":
        return str(machine.emit_assembly(module)).encode()
    return bytes(machine.emit_object(module))


def main() -> None:
    sys.stdout.buffer.write(_compile(lambda: sys.stdin.buffer.read().decode(), sys.argv[1]))


if __name__ == "__main__":
    main()
