"""LLVM's backend in a process of its own: it ends the process on what it cannot select.

Run as `python -m policyc.codegen.backend` it reads LLVM IR from standard input and writes two length-prefixed (u32, little-endian)
byte strings to standard output: the object and the assembly. Its working directory holds the policy's sources, whose
lines LLVM puts into the BTF.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import policyc
from policyc.diagnostics import OperationError

CPU = "v3"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Built:
    object: bytes
    assembly: str


def run(module: str, sources: dict[str, str]) -> Built:
    """Compiles LLVM IR. The sources are laid out in a temporary folder, so that no other file's text can get into the object
    and its bytes do not depend on where it is compiled. Raises OperationError with what the backend said before it ended, or
    where there is no room for temporary files."""
    try:
        process = _run(module, sources)
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
    output = process.stdout
    (length,) = _LENGTH.unpack_from(output)
    start = _LENGTH.size + length
    return Built(output[_LENGTH.size : start], output[start + _LENGTH.size :].decode())


def _run(module: str, sources: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    import_root = str(Path(policyc.__file__).resolve().parents[1])
    path = [import_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory(prefix="policyc-") as folder:
        for name, text in sources.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="")
        return subprocess.run(
            [sys.executable, "-m", "policyc.codegen.backend"],
            input=module.encode(),
            capture_output=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"},
            check=False,
        )


def _compile(text: str) -> tuple[bytes, bytes]:
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
    return machine.emit_object(module), machine.emit_assembly(module).encode()


def main() -> None:
    code, assembly = _compile(sys.stdin.buffer.read().decode())
    out = sys.stdout.buffer
    for part in (code, assembly):
        out.write(_LENGTH.pack(len(part)))
        out.write(part)


if __name__ == "__main__":
    main()
