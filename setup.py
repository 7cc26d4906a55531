"""Builds keras_lsh: the Python package and its TensorFlow op library.

Everything static is in pyproject.toml. What is here has to be computed:

* the op library `keras_lsh/ops/_keras_lsh_ops.so`, compiled with the flags of the
  TensorFlow found at build time, and the stamp `_build_info.json` beside it, which
  tells `keras_lsh/ops/library.py` what the library was built against;
* the requirement on TensorFlow: a library of ops is bound to one minor version;
* the wheel's tag: the library is loaded by TensorFlow and not by Python's import, so
  one wheel serves every Python 3.

Environment variables:
    CXX, CXXFLAGS, LDFLAGS: the compiler and further flags, as usual.
    KERAS_LSH_SKIP_BUILD: 1 installs without the op library (the reference ops serve).
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, PlatformError

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1: the command is part of `wheel`.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ... which would rather have a newer one.
        from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
LIBRARY = "_keras_lsh_ops.so"
STAMP = "_build_info.json"
# The source directories of the library, and the jobs they are compiled with: one op
# file takes most of a gigabyte.
SOURCE_DIRS = ("custom_ops/core", "custom_ops/kernels", "custom_ops/ops")
MAX_JOBS = 2

# No -march: wider instructions are chosen at run time. No contraction: all SIMD
# levels round alike. No semantic interposition: calls inside the library stay inside.
COMPILE_FLAGS = (
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-semantic-interposition",
    "-pthread",
    "-Wall",
    "-Wextra",
)
LINK_FLAGS = ("-shared", "-pthread", "-Wl,--no-undefined", "-Wl,-z,relro,-z,now")


def read_version() -> str:
    text = (ROOT / "keras_lsh" / "_version.py").read_text()
    return re.search(r'__version__ = "([^"]+)"', text).group(1)


def skip_build() -> bool:
    """Whether to install without the op library."""
    value = os.environ.get("KERAS_LSH_SKIP_BUILD", "")
    if value not in ("", "0", "1"):
        raise PlatformError(
            "Received an invalid value for the environment variable "
            f"KERAS_LSH_SKIP_BUILD, expected 0 or 1. Received: {value!r}"
        )
    return value == "1" or not (
        sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    )


def installed_tensorflow() -> tuple[str, str] | None:
    """Name and version of the TensorFlow distribution at hand, without importing it."""
    for name in ("tensorflow", "tensorflow-cpu"):
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def dependencies() -> list[str]:
    # `tensorflow` and `tensorflow-cpu` install the same files: requiring the one where
    # the other is would overwrite it. In an isolated build it is always `tensorflow`.
    name, version = installed_tensorflow() or ("tensorflow", None)
    requirement = f"{name}>=2.21"
    if version is not None and not skip_build():
        major, minor = map(int, version.split(".")[:2])
        requirement = f"{name}>={major}.{minor},<{major}.{minor + 1}"
    return ["keras>=3.15,<4", "numpy>=1.26", requirement]


def tensorflow_flags() -> dict[str, Any]:
    """What a library of ops needs to know of the TensorFlow in this environment."""
    # In a process of its own: importing TensorFlow takes seconds, memory, and the
    # liberty to write to standard error.
    program = (
        "import json, tensorflow as tf\n"
        "print(json.dumps({"
        "'version': tf.__version__, 'commit': tf.version.GIT_VERSION,"
        "'compile': tf.sysconfig.get_compile_flags(),"
        "'link': tf.sysconfig.get_link_flags()}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd="/", capture_output=True, text=True
    )
    if result.returncode != 0:
        raise PlatformError(
            f"TensorFlow cannot be imported by {sys.executable}:\n{result.stderr}"
        )
    return json.loads(result.stdout.splitlines()[-1])


def find_compiler() -> list[str]:
    """The command of a C++17 compiler: CXX, or the first of the usual ones."""
    if os.environ.get("CXX"):
        candidates = [shlex.split(os.environ["CXX"])]
    else:
        candidates = [["g++"], ["clang++"], ["c++"]]
    tried = []
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch) / "probe.cc"
        probe.write_text(
            "#include <optional>\n"
            "static_assert(__cplusplus >= 201703L);\n"
            "int main() { return std::optional<int>(0).value(); }\n"
        )
        for command in candidates:
            if shutil.which(command[0]) is None:
                tried.append(f"  {shlex.join(command)}: not found")
                continue
            result = subprocess.run(
                [*command, "-std=c++17", str(probe), "-o", str(probe) + ".out"],
                capture_output=True,
                text=True,
            )
            if result.returncode == 0:
                return command
            reason = (result.stderr.strip() or "failed").splitlines()[0]
            tried.append(f"  {shlex.join(command)}: {reason}")
    raise CompileError(
        "keras_lsh compiles its TensorFlow ops and found no C++17 compiler:\n"
        + "\n".join(tried)
        + "\nInstall one (Debian and Ubuntu: `apt install g++`), or name one in the "
        "environment variable CXX, or set KERAS_LSH_SKIP_BUILD=1 to install without "
        "the compiled ops (slower reference ops serve instead)."
    )


def digest(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Compilation:
    """Compiles sources to objects, each only when something about it has changed.

    Beside every object lies a record of the command and of the contents of the source
    and of the project's headers that it included (the compiler lists them; system
    headers, TensorFlow's among them, are stood in for by `key`).
    """

    def __init__(self, command: list[str], include_flags: list[str], key: str) -> None:
        self.command = command
        self.include_flags = include_flags
        self.key = key

    def compile(self, source: str, target: Path) -> Path:
        record_path = target.with_suffix(".json")
        signature = [self.key, *self.command]
        if target.exists() and self._up_to_date(record_path, signature):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        record_path.unlink(missing_ok=True)
        depfile = target.with_suffix(".d")
        sys.stdout.write(f"compiling {source}\n")
        sys.stdout.flush()
        run(
            [
                *self.command,
                *self.include_flags,
                *("-MMD", "-MF", str(depfile)),
                *("-c", source, "-o", str(target)),
            ]
        )
        # A make rule: "target: input input ..." with backslashes at the line ends.
        inputs = depfile.read_text().replace("\\\n", " ").split(": ", 1)[1].split()
        record = {"signature": signature, "inputs": {p: digest(p) for p in inputs}}
        record_path.write_text(json.dumps(record, indent=1))
        return target

    @staticmethod
    def _up_to_date(record_path: Path, signature: list[str]) -> bool:
        try:
            record = json.loads(record_path.read_text())
            return record["signature"] == signature and all(
                digest(path) == value for path, value in record["inputs"].items()
            )
        except (OSError, ValueError, KeyError):
            return False


def run(command: list[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    sys.stderr.write(result.stderr)
    if result.returncode != 0:
        raise CompileError(
            f"command failed with status {result.returncode}: {shlex.join(command)}"
        )


class BuildOps(build_ext):
    """Compiles the op library; `--inplace` and editable installs put it in the tree."""

    def get_ext_filename(self, fullname: str) -> str:
        # No tag of a Python version or ABI in the name.
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        if installed_tensorflow() is None:
            raise PlatformError(
                "keras_lsh compiles its ops against TensorFlow, and there is none in "
                f"this environment ({sys.prefix}). Install it first, e.g. `pip install "
                "'tensorflow>=2.21,<2.22'`, or let pip do it: `pip install .` without "
                "--no-build-isolation."
            )
        compiler = find_compiler()
        tensorflow = tensorflow_flags()
        include_flags: list[str] = ["-I", "."]
        flags = [*COMPILE_FLAGS]
        for flag in tensorflow["compile"]:
            if flag.startswith("-I"):
                # As system headers: their warnings are not ours to mend.
                include_flags += ["-isystem", flag[2:]]
            elif not flag.lstrip("-").startswith("std="):
                flags.append(flag)
        flags += shlex.split(os.environ.get("CXXFLAGS", ""))
        compiler_version = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True
        ).stdout.splitlines()[0]

        # The path of TensorFlow's headers is no part of the key: an isolated build has
        # a new one every time.
        key = f"{compiler_version} / {tensorflow['version']} {tensorflow['commit']}"
        compilation = Compilation([*compiler, *flags], include_flags, key)
        build_base = self.get_finalized_command("build").build_base
        object_dir = ROOT / build_base / "ops"
        with concurrent.futures.ThreadPoolExecutor(self._jobs()) as pool:
            futures = [
                pool.submit(
                    compilation.compile,
                    source,
                    (object_dir / source).with_suffix(".o"),
                )
                for source in ext.sources
            ]
            try:
                objects = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        # Under a new name first: a process that has the old library mapped keeps it,
        # and an interrupted link leaves no half a library.
        scratch = library.with_name(LIBRARY + ".new")
        print(f"linking {library}", flush=True)
        run(
            [
                *compiler,
                *LINK_FLAGS,
                *map(str, objects),
                *("-o", str(scratch.resolve())),
                *tensorflow["link"],
                *shlex.split(os.environ.get("LDFLAGS", "")),
            ]
        )
        os.replace(scratch, library)
        write_stamp(
            library.with_name(STAMP),
            library=LIBRARY,
            tensorflow=tensorflow["version"],
            compiler=compiler_version,
        )

    def _jobs(self) -> int:
        return int(self.parallel or min(MAX_JOBS, os.cpu_count() or 1))

    def copy_extensions_to_source(self) -> None:
        source_dir = ROOT / "keras_lsh" / "ops"
        built_dir = Path(self.build_lib) / "keras_lsh" / "ops"
        for name in (LIBRARY, STAMP):
            scratch = source_dir / (name + ".new")
            shutil.copy2(built_dir / name, scratch)
            os.replace(scratch, source_dir / name)

    def get_outputs(self) -> list[str]:
        directory = os.path.join(self.build_lib, "keras_lsh", "ops")
        return [os.path.join(directory, name) for name in (LIBRARY, STAMP)]

    def get_output_mapping(self) -> dict[str, str]:
        if not self.inplace:
            return {}
        return {
            output: os.path.join("keras_lsh", "ops", os.path.basename(output))
            for output in self.get_outputs()
        }


def write_stamp(path: Path, **facts: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"keras_lsh": read_version(), **facts}, indent=2) + "\n")


class BuildPython(build_py):
    """Copies the Python files, and says so in the stamp if there is no op library."""

    def run(self) -> None:
        # setuptools never removes what an earlier build left there, and would package
        # modules and libraries that are long gone.
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "keras_lsh", ignore_errors=True)
        super().run()
        if skip_build():
            directory = Path("." if self.editable_mode else self.build_lib)
            (directory / "keras_lsh" / "ops" / LIBRARY).unlink(missing_ok=True)
            write_stamp(directory / "keras_lsh" / "ops" / STAMP, library=None)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        if skip_build() and not self.editable_mode:
            outputs.append(os.path.join(self.build_lib, "keras_lsh", "ops", STAMP))
        return outputs


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        if skip_build():
            return "py3", "none", "any"
        return "py3", "none", "linux_x86_64"


def op_library() -> list[Extension]:
    if skip_build():
        return []
    sources = sorted(
        path.relative_to(ROOT).as_posix()
        for directory in SOURCE_DIRS
        for path in (ROOT / directory).glob("*.cc")
    )
    return [Extension("keras_lsh.ops._keras_lsh_ops", sources=sources)]


setup(
    version=read_version(),
    license="Apache-2.0",
    install_requires=dependencies(),
    ext_modules=op_library(),
    cmdclass={"build_ext": BuildOps, "build_py": BuildPython, "bdist_wheel": Wheel},
)
