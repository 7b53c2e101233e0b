"""The build without a compiler, and of the portable core, which is what other architectures run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "csrc", "fastk", "tests"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / "setup.py").is_file() or not (ROOT / "csrc").is_dir(), reason="the source tree is not there"
    ),
]
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc").split()[0]) is None, reason="there is no C compiler"
)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the source tree in which nothing is built."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("*.so", "*.o", "_c.c", "__pycache__", ".hypothesis")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture
def run(tree: Path) -> Run:
    """Run Python in the copy, with no FASTK_ setting but those given."""
    pytest.importorskip("setuptools")
    pytest.importorskip("cffi")

    def call(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTK_")}
        environment |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"} | settings
        return subprocess.run(
            [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, timeout=600
        )

    return call


@pytest.mark.parametrize("compiler", ["/bin/false", "/nowhere/cc"])
def test_a_failed_compile_is_no_error(run: Run, tree: Path, compiler: str):
    done = run("setup.py", "build_ext", "--inplace", CC=compiler)
    assert done.returncode == 0, done.stderr
    assert "the C core was not built" in done.stderr
    assert "FASTK_REQUIRE_C=1" in done.stderr
    assert not list(tree.rglob("*.so"))

    show = "import fastk; print(fastk.__file__, fastk.config()['backend'], fastk.config()['isa_available'])"
    assert run("-c", show).stdout == f"{tree / 'fastk' / '__init__.py'} numba []\n"


@pytest.mark.parametrize("compiler", ["/bin/false", "/nowhere/cc"])
def test_a_failed_compile_is_an_error_if_c_is_required(run: Run, tree: Path, compiler: str):
    done = run("setup.py", "build_ext", "--inplace", CC=compiler, FASTK_REQUIRE_C="1")
    assert done.returncode != 0
    assert not list(tree.rglob("*.so"))


@needs_compiler
@pytest.mark.parametrize("portable", ["0", "1"])
def test_build(run: Run, tree: Path, portable: str):
    done = run("setup.py", "build_ext", "--inplace", FASTK_PORTABLE=portable, FASTK_REQUIRE_C="1", FASTK_WERROR="1")
    assert done.returncode == 0, done.stderr
    show = "import fastk; print(fastk.__file__, fastk.config()['backend'], *fastk.config()['isa_available'])"
    module, backend, *levels = run("-c", show).stdout.split()
    assert (module, backend, levels[0]) == (str(tree / "fastk" / "__init__.py"), "c", "base")
    if portable == "1":
        assert levels == ["base"]
        # The kernels' own tests, on what this build has instead of the code for one architecture.
        checked = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_kernels.py", FASTK_TEST_BACKENDS="c")
        assert checked.returncode == 0, checked.stdout
        assert "passed" in checked.stdout
