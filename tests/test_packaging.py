"""What an installed wheel has: one top-level name, every subpackage, the grammar; and the Makefile that lists itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ["policyc", "grammar", "codegen", "runtime", "pyproject.toml", "setup.cfg", "README.md", "LICENSE"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source / part)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next((source / "dist").glob("*.whl"))


def test_a_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"policyc"}


def test_a_wheel_has_every_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (("policyc", "policyc"), *((p, f"policyc/{p}") for p in ("grammar", "codegen", "runtime"))):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".lark", ".typed") and file.is_file():
                assert f"{inside}/{file.relative_to(ROOT / folder)}" in names


def test_an_unpacked_wheel_runs_alone(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "x.pol").write_text("policy p for endpoints { ingress { allow from any on tcp/80 } }\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import policyc.cli.main as m;"
        "assert m.__file__.startswith(sys.argv[1]); sys.exit(m.run(['compile', 'x.pol', '-o', 'x.o']))"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x.o").stat().st_size > 0


def test_make_lists_every_target() -> None:
    done = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=True)
    for target in ("venv", "demo", "test", "test-unit", "lint", "types", "fmt"):
        assert f"make {target} " in done.stdout


def test_scripts_are_sound_shell() -> None:
    for script in ("scripts/find-python", "scripts/install-tools"):
        subprocess.run(["sh", "-n", ROOT / script], check=True)
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)
