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
from pathlib import Path
from typing import Literal

import policyc
from policyc.diagnostics import OperationError

CPU = "v3"
Output = Literal["obj", "asm"]


def run(module: str, sources: dict[str, str], output: Output = "obj") -> bytes:
    """Compiles LLVM IR to an object, or to assembly in UTF-8. The sources are laid out in a temporary folder, so that no other
    file's text can get into the object and its bytes do not depend on where it is compiled. Raises OperationError with what the
    backend said before it ended, or where there is no room for temporary files."""
    try:
        process = _run(module, sources, output)
    except OSError as error:
        reason = error.strerror.lower() if error.strerror else "no room"
        help = "TMPDIR names a folder with room for the policy's sources"
        raise OperationError(f"temporary files of the compilation cannot be written: {reason}", help) from None
    if process.returncode:
        said = process.stderr.decode(errors="replace").strip().splitlines()
        raise OperationError(
            f"LLVM could not compile the policy's program: {said[-1] if said else f'exit status {process.returncode}'}",
            help="this is a limit of the backend or a bug in policyc; please report it with the policy",
            exit_code=4,
        )
    return process.stdout


def _run(module: str, sources: dict[str, str], output: Output) -> subprocess.CompletedProcess[bytes]:
    import_root = str(Path(policyc.__file__).resolve().parents[1])
    path = [import_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory(prefix="policyc-") as folder:
        for name, text in sources.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="")
        return subprocess.run(
            [sys.executable, "-m", "policyc.codegen.backend", output],
            input=module.encode(),
            capture_output=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"},
            check=False,
        )


def _compile(text: str, output: str) -> bytes:
    import llvmlite.binding as llvm

    # Blocks stay where they were emitted, heads of loops first: kernels before 6.8 refuse a loop whose last block falls
    # through into its first instead of jumping there (check_cfg in kernel/bpf/verifier.c).
    llvm.set_option("policyc", "-disable-block-placement")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_triple("bpfel").create_target_machine(cpu=CPU, opt=2, reloc="static")
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
    sys.stdout.buffer.write(_compile(sys.stdin.buffer.read().decode(), sys.argv[1]))


if __name__ == "__main__":
    main()
