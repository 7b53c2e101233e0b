"""Configuration: backend, ISA level and threads from the environment, and how it is shown."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform

import numpy as np
import pytest

import fastk
from fastk._backend import BACKENDS, c

LEVELS = ("base", "v3", "v4")
HEAVY = ("numba", "llvmlite", "scipy", "torch", "ray")

needs_c = pytest.mark.skipif(not c.available_isa(), reason="the C core is not there")

SHOW = "import fastk, json; print(json.dumps(fastk.config()))"
CALL = "import numpy as np; from fastk.config import kernels as k; print(k.find_byte(np.arange(9, dtype='u1'), 9, 5))"
WITHOUT_C = "import sys; sys.modules['fastk._c'] = None\n"


@pytest.fixture
def configured(run_python):
    """fastk.config() of a fresh interpreter with these settings."""

    def configure(code: str = SHOW, **settings: str) -> dict:
        done = run_python("-c", code, **settings)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return configure


@pytest.fixture
def refused(run_python):
    """Last line of the traceback of an import that these settings make fail."""

    def refuse(code: str = "import fastk", **settings: str) -> str:
        done = run_python("-c", code, **settings)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr.strip().splitlines()[-1]

    return refuse


@pytest.fixture
def threads():
    """The number of threads, which is put back afterwards."""
    before = fastk.config()["threads"]
    yield before
    fastk.set_num_threads(before)


def test_config():
    config = fastk.config()
    assert list(config) == ["version", "backend", "isa", "isa_available", "compiler", "threads"]
    assert config["version"] == fastk.__version__
    assert config["backend"] in BACKENDS
    assert config["isa_available"] == list(LEVELS[: len(config["isa_available"])])
    assert (config["isa"] is None) == (config["backend"] == "numba")
    assert config["isa"] is None or config["isa"] in config["isa_available"]
    assert (config["compiler"] is None) == (c.lib is None)
    assert isinstance(config["threads"], int)
    assert config["threads"] >= 1


def test_config_is_a_copy():
    fastk.config()["isa_available"].append("v9")
    fastk.config()["threads"] = 99
    assert "v9" not in fastk.config()["isa_available"]
    assert fastk.config()["threads"] != 99


def test_version_is_that_of_the_distribution():
    try:
        version = importlib.metadata.version("fastk-kernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("fastk is not installed")
    assert fastk.__version__ == version


# ---- threads


@pytest.mark.parametrize("n", [1, 2, 1000, np.int64(3), np.uint8(4), True])
def test_set_num_threads(threads, n):
    fastk.set_num_threads(n)
    assert fastk.config()["threads"] == int(n)
    assert type(fastk.config()["threads"]) is int


@pytest.mark.parametrize("n", [1.0, "2", None, [1], np.float64(1)])
def test_set_num_threads_of_another_type(threads, n):
    with pytest.raises(TypeError, match=r"^n=.*: an integer is needed$"):
        fastk.set_num_threads(n)
    assert fastk.config()["threads"] == threads


@pytest.mark.parametrize("n", [0, -1, -(10**30)])
def test_set_num_threads_too_few(threads, n):
    with pytest.raises(ValueError, match=rf"^n={n}: allowed is at least 1$"):
        fastk.set_num_threads(n)
    assert fastk.config()["threads"] == threads


# ---- settings


def test_defaults(configured):
    config = configured()
    assert config["backend"] == ("c" if c.lib else "numba")
    assert config["isa"] == (c.available_isa()[-1] if c.lib else None)
    assert config["threads"] == len(os.sched_getaffinity(0))


def test_empty_and_auto_are_the_defaults(configured):
    expected = configured()
    assert configured(FASTK_BACKEND="auto", FASTK_ISA="auto") == expected
    assert configured(FASTK_BACKEND="", FASTK_ISA="", FASTK_NUM_THREADS="") == expected


@pytest.mark.parametrize("isa", c.available_isa())
def test_force_isa(configured, run_python, isa):
    for backend in ("auto", "c"):
        config = configured(FASTK_BACKEND=backend, FASTK_ISA=isa)
        assert (config["backend"], config["isa"]) == ("c", isa)
    assert run_python("-c", CALL, FASTK_ISA=isa).stdout == "5\n"


def test_force_numba(configured, run_python):
    config = configured(FASTK_BACKEND="numba")
    assert (config["backend"], config["isa"]) == ("numba", None)
    assert config["isa_available"] == list(c.available_isa())
    pytest.importorskip("numba")
    assert run_python("-c", CALL, FASTK_BACKEND="numba").stdout == "5\n"


def test_force_threads(configured):
    assert configured(FASTK_NUM_THREADS="7")["threads"] == 7


def test_without_the_c_core(configured, refused):
    config = configured(WITHOUT_C + SHOW)
    assert (config["backend"], config["isa"], config["isa_available"]) == ("numba", None, [])
    assert config["compiler"] is None
    message = refused(WITHOUT_C + "import fastk", FASTK_BACKEND="c")
    assert message.startswith("ImportError: FASTK_BACKEND='c': the compiled core is not installed (")
    message = refused(WITHOUT_C + "import fastk", FASTK_ISA="base")
    assert message == "ImportError: FASTK_ISA='base': the numba backend has no ISA levels; only auto is allowed"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("FASTK_BACKEND", "cuda", "auto, c, numba"),
        ("FASTK_BACKEND", "C", "auto, c, numba"),
        ("FASTK_BACKEND", " c", "auto, c, numba"),
        ("FASTK_ISA", "avx2", "auto, base, v3, v4"),
        ("FASTK_ISA", "V3", "auto, base, v3, v4"),
        ("FASTK_NUM_THREADS", "0", "whole numbers from 1 up"),
        ("FASTK_NUM_THREADS", "-1", "whole numbers from 1 up"),
        ("FASTK_NUM_THREADS", "two", "whole numbers from 1 up"),
        ("FASTK_NUM_THREADS", "1.5", "whole numbers from 1 up"),
        ("FASTK_NUM_THREADS", "²", "whole numbers from 1 up"),
    ],
)
def test_unknown_values(refused, name, value, allowed):
    assert refused(**{name: value}) == f"ImportError: {name}={value!r}: allowed are {allowed}"


@pytest.mark.parametrize("isa", LEVELS)
def test_numba_has_no_levels(refused, isa):
    message = refused(FASTK_BACKEND="numba", FASTK_ISA=isa)
    assert message == f"ImportError: FASTK_ISA={isa!r}: the numba backend has no ISA levels; only auto is allowed"


@needs_c
def test_levels_that_the_machine_lacks(refused):
    have = c.available_isa()
    # A core that has the base level alone, on any machine.
    pretend = (
        "import sys, types\n"
        "fake = types.ModuleType('fastk._c')\n"
        "fake.ffi, fake.lib = None, types.SimpleNamespace(fastk_isa_max=lambda: 0)\n"
        "sys.modules['fastk._c'] = fake\n"
        "import fastk\n"
    )
    assert refused(pretend, FASTK_ISA="v4") == "ImportError: FASTK_ISA='v4': this machine has base"
    for isa in set(LEVELS) - set(have):
        assert refused(FASTK_ISA=isa) == f"ImportError: FASTK_ISA={isa!r}: this machine has {', '.join(have)}"
        with pytest.raises(ValueError, match=f"isa={isa!r}: this machine has"):
            c.select_isa(isa)


# ---- imports


@pytest.mark.parametrize("backend", BACKENDS)
def test_import_is_light(run_python, backend):
    if backend == "c" and c.lib is None:
        pytest.skip("the C core is not there")
    code = f"import sys, fastk; fastk.config(); print([m for m in {HEAVY} if m in sys.modules])"
    done = run_python("-c", code, FASTK_BACKEND=backend)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_shuffle_on_c_needs_no_numba(run_python):
    if c.lib is None:
        pytest.skip("the C core is not there")
    code = "import sys, fastk.shuffle as s; s.permutation(9, 1); print('numba' in sys.modules)"
    assert run_python("-c", code).stdout == "False\n"


def test_public_names():
    assert set(fastk.__all__) <= set(dir(fastk))
    for name in fastk.__all__:
        assert getattr(fastk, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fastk.nothing


# ---- what is printed


def printed(text: str) -> dict[str, str]:
    """Value by label; the labels are padded to one width."""
    lines = text.split("\n\n")[0].splitlines()
    width = max(len(line.split("  ")[0]) for line in lines)
    assert all(line[width : width + 2] == "  " and line[width + 2] != " " for line in lines)
    return {line[:width].rstrip(): line[width + 2 :] for line in lines}


def test_python_m_fastk(run_python):
    done = run_python("-m", "fastk", FASTK_NUM_THREADS="3")
    assert (done.returncode, done.stderr) == (0, "")
    shown, config = printed(done.stdout), fastk.config()
    assert shown["fastk"] == config["version"]
    assert shown["threads"].startswith("3 ")
    assert shown["settings"] == "FASTK_NUM_THREADS=3"
    assert shown["Python"].startswith(platform.python_version())
    assert shown["NumPy"] == np.__version__
    assert shown["platform"] == platform.platform()
    assert shown["CPU"]
    if c.lib is not None:
        assert shown["backend"] == "c"
        assert shown["ISA level"] == f"{c.available_isa()[-1]} (this machine has {', '.join(c.available_isa())})"
        assert shown["C core"] == f"built by {config['compiler']}"
        assert "FASTK_REQUIRE_C" not in done.stdout


def test_python_m_fastk_without_the_c_core(run_python):
    done = run_python("-c", WITHOUT_C + "import runpy; runpy.run_module('fastk', run_name='__main__')")
    assert (done.returncode, done.stderr) == (0, "")
    shown = printed(done.stdout)
    assert shown["backend"] == "numba"
    assert shown["C core"].startswith("not installed: ")
    assert shown["settings"] == "none in the environment"
    assert "FASTK_REQUIRE_C=1" in done.stdout
    assert max(map(len, done.stdout.split("\n\n")[1].splitlines())) <= 120


def test_python_m_fastk_refuses_a_wrong_setting(run_python):
    done = run_python("-m", "fastk", FASTK_ISA="v9")
    assert done.returncode == 1
    assert "FASTK_ISA='v9': allowed are auto, base, v3, v4" in done.stderr
