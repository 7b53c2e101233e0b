"""The cffi builder of the compiled core: one abi3 extension, ``fastk._c``, from the sources in ``csrc/``.

Switches, all from the environment: ``CC`` and ``CFLAGS`` as usual; ``FASTK_WERROR=1`` (warnings are errors),
``FASTK_SANITIZE=1`` (AddressSanitizer and UBSan), ``FASTK_PORTABLE=1`` (leave out everything that is written for one
architecture), ``FASTK_REQUIRE_C=1`` (a failed compile is an error).
"""

import os
from pathlib import Path

from cffi import FFI

SOURCES = [
    *("dispatch.c", "hadamard.c", "hamming.c", "lsh.c", "mitchell.c", "mitchell_gemm.c", "project.c"),
    *("records.c", "taylor.c"),
]
HEADERS = [
    *("fastk.h", "isa.h", "half.h", "philox.h"),
    *("hadamard.h", "hadamard_lanes.h", "hamming_lanes.h", "lsh_lanes.h", "project_kernels.h", "rounds.h"),
    *("mitchell.h", "mitchell_lanes.h", "mitchell_scale.h", "mitchell_tile.h"),
    *("taylor.h", "taylor_lanes.h", "taylor_rows.h"),
]


def _switch(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


def _declarations(header: Path) -> str:
    """Text of the header without its preprocessor lines, which cffi does not read."""
    return "".join(line for line in header.read_text().splitlines(keepends=True) if not line.startswith("#"))


compile_args = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
link_args = []
macros = []
if _switch("FASTK_WERROR"):
    compile_args.append("-Werror")
if _switch("FASTK_SANITIZE"):
    link_args = ["-fsanitize=address,undefined"]
    compile_args += [*link_args, "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g", "-O1"]
if _switch("FASTK_PORTABLE"):
    macros.append(("FASTK_PORTABLE", "1"))

ffibuilder = FFI()
ffibuilder.cdef(_declarations(Path("csrc/fastk.h")))
ffibuilder.set_source(
    "fastk._c",
    '#include "fastk.h"',
    sources=[f"csrc/{name}" for name in SOURCES],
    depends=[f"csrc/{name}" for name in HEADERS],
    include_dirs=["csrc"],
    libraries=["m"],
    define_macros=macros,
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    py_limited_api=True,
    optional=not _switch("FASTK_REQUIRE_C"),
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
