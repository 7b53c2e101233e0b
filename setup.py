"""Builds the compiled core when there is a C compiler, and installs without it when there is none."""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class OptionalBuildExt(build_ext):
    """Build the C core; without it the numba backend serves every function, unless FASTK_REQUIRE_C=1."""

    def finalize_options(self) -> None:
        """Compile anew each time: switches such as FASTK_SANITIZE leave no trace in the files' times."""
        super().finalize_options()
        self.force = True

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            if os.environ.get("FASTK_REQUIRE_C", "0") not in ("", "0"):
                ext.optional = False
                raise
            print(
                f"fastk: the C core was not built ({error}). The install goes on, and every function runs on numba.\n"
                "fastk: install a C compiler and reinstall to get it; FASTK_REQUIRE_C=1 makes this an error.",
                file=sys.stderr,
            )
            raise


setup(
    cmdclass={"build_ext": OptionalBuildExt},
    cffi_modules=["fastk/_build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
