"""The build: versions that agree, what goes into packages, errors, rebuilding."""

import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import setuptools

import keras_lsh

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "keras_lsh/ops/_keras_lsh_ops.so"
STAMP = "keras_lsh/ops/_build_info.json"

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ to compile with"
)


def run_setup(directory: Path, *arguments: str, **environment: str):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", *arguments],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the sources, as a clone has them, and the objects compiled so far."""
    directory = tmp_path_factory.mktemp("checkout")
    for name in (
        *("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"),
        *("Makefile", "BUILD", "WORKSPACE", "keras_lsh", "custom_ops"),
        "build/ops",
    ):
        source, target = ROOT / name, directory / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.json")
            shutil.copytree(source, target, ignore=ignore)
        elif source.exists():
            shutil.copy(source, target)
    return directory


@pytest.fixture
def setup_module(monkeypatch):
    """The names in setup.py, and in `arguments` what it passes to setuptools."""
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", lambda **kwargs: arguments.update(kwargs))
    monkeypatch.delenv("KERAS_LSH_SKIP_BUILD", raising=False)

    def load():
        return runpy.run_path(str(ROOT / "setup.py")) | {"arguments": arguments}

    return load


class TestVersions:
    def test_one_version(self, setup_module):
        version = keras_lsh.__version__
        assert setup_module()["arguments"]["version"] == version
        citation = (ROOT / "CITATION.cff").read_text()
        assert re.search(r"^version: (.*)$", citation, re.M).group(1) == version

    def test_one_range_of_tensorflow(self):
        pyproject = (ROOT / "pyproject.toml").read_text()
        required = re.search(r'"(tensorflow>=[^;]*);', pyproject).group(1)
        makefile = (ROOT / "Makefile").read_text()
        assert f"TENSORFLOW ?= {required}\n" in makefile
        assert required in (ROOT / "setup.py").read_text()


class TestDependencies:
    @pytest.fixture
    def requirement(self, monkeypatch, setup_module):
        def compute(**installed: str) -> str:
            def version(name: str) -> str:
                try:
                    return installed[name.replace("-", "_")]
                except KeyError:
                    raise importlib.metadata.PackageNotFoundError(name) from None

            monkeypatch.setattr(importlib.metadata, "version", version)
            requirements = setup_module()["arguments"]["install_requires"]
            return next(r for r in requirements if r.startswith("tensorflow"))

        return compute

    def test_the_minor_version_compiled_against(self, requirement):
        assert requirement(tensorflow="2.21.1") == "tensorflow>=2.21,<2.22"
        assert requirement(tensorflow="2.22.0rc1") == "tensorflow>=2.22,<2.23"

    def test_the_distribution_compiled_against(self, requirement):
        assert requirement(tensorflow_cpu="2.21.0") == "tensorflow-cpu>=2.21,<2.22"
        both = requirement(tensorflow="2.21.0", tensorflow_cpu="2.21.0")
        assert both == "tensorflow>=2.21,<2.22"

    def test_no_upper_bound_without_a_library(self, requirement, monkeypatch):
        assert requirement() == "tensorflow>=2.21"
        monkeypatch.setenv("KERAS_LSH_SKIP_BUILD", "1")
        assert requirement(tensorflow="2.22.0") == "tensorflow>=2.21"


class TestPlatforms:
    @pytest.mark.parametrize(
        ("system", "machine", "builds"),
        [
            ("linux", "x86_64", True),
            ("linux", "aarch64", False),
            ("darwin", "x86_64", False),
            ("win32", "AMD64", False),
        ],
    )
    def test_compiled_on(self, system, machine, builds, setup_module, monkeypatch):
        monkeypatch.setattr("sys.platform", system)
        monkeypatch.setattr("platform.machine", lambda: machine)
        assert bool(setup_module()["arguments"]["ext_modules"]) is builds

    def test_skip_build_invalid(self, setup_module, monkeypatch):
        monkeypatch.setenv("KERAS_LSH_SKIP_BUILD", "yes")
        with pytest.raises(Exception, match="KERAS_LSH_SKIP_BUILD, expected 0 or 1"):
            setup_module()


class TestErrors:
    def test_no_compiler(self, checkout):
        result = run_setup(checkout, "build_ext", CXX="/no/such/compiler -O1")
        assert result.returncode != 0
        for part in (
            "found no C++17 compiler",
            "/no/such/compiler -O1: not found",
            "apt install g++",
            "KERAS_LSH_SKIP_BUILD=1",
        ):
            assert part in result.stderr
        assert "Traceback" not in result.stderr

    def test_compiler_that_fails(self, checkout):
        result = run_setup(checkout, "build_ext", CXX="false")
        assert result.returncode != 0
        assert "found no C++17 compiler" in result.stderr


class TestPackages:
    def test_source_distribution(self, checkout):
        result = run_setup(checkout, "--quiet", "sdist", "--formats=gztar")
        assert result.returncode == 0, result.stderr
        (archive,) = (checkout / "dist").glob("*.tar.gz")
        with tarfile.open(archive) as file:
            names = {name.split("/", 1)[-1] for name in file.getnames()}
        sources = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "custom_ops").rglob("*")
            if path.is_file()
        }
        assert sources <= names
        assert {"setup.py", "pyproject.toml", "LICENSE", "BUILD"} <= names
        assert not names & {LIBRARY, STAMP}

    @needs_compiler
    def test_wheel(self, checkout):
        result = run_setup(checkout, "--quiet", "bdist_wheel")
        assert result.returncode == 0, result.stderr
        (wheel,) = (checkout / "dist").glob("*-py3-none-linux_x86_64.whl")
        with zipfile.ZipFile(wheel) as file:
            stamp = json.loads(file.read(STAMP))
            names = set(file.namelist())
        assert stamp["keras_lsh"] == keras_lsh.__version__
        assert stamp["library"] == "_keras_lsh_ops.so"
        assert stamp["tensorflow"]
        assert stamp["compiler"]
        assert {LIBRARY, "keras_lsh/py.typed"} <= names
        modules = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "keras_lsh").rglob("*.py")
        }
        assert modules <= names
        assert all(name.startswith("keras_lsh") for name in names)

    def test_wheel_without_library(self, checkout):
        result = run_setup(checkout, "--quiet", "bdist_wheel", KERAS_LSH_SKIP_BUILD="1")
        assert result.returncode == 0, result.stderr
        (wheel,) = (checkout / "dist").glob("*-py3-none-any.whl")
        with zipfile.ZipFile(wheel) as file:
            stamp = json.loads(file.read(STAMP))
            assert LIBRARY not in file.namelist()
        assert stamp == {"keras_lsh": keras_lsh.__version__, "library": None}


@needs_compiler
class TestIncrementalCompilation:
    @pytest.fixture
    def tree(self, tmp_path, monkeypatch, setup_module):
        """Two sources, one with a header; `compile` tells which were compiled."""
        (tmp_path / "a.h").write_text("int a();\n")
        (tmp_path / "a.cc").write_text('#include "a.h"\nint a() { return 1; }\n')
        (tmp_path / "b.cc").write_text("#include <vector>\nint b() { return 2; }\n")
        monkeypatch.chdir(tmp_path)
        names = setup_module()
        monkeypatch.setitem(names["run"].__globals__, "ROOT", tmp_path)

        def compile_all(*flags: str, key: str = "key") -> list[str]:
            compilation = names["Compilation"](["g++", *flags], ["-I", "."], key)
            compiled = []
            for source in ("a.cc", "b.cc"):
                target = tmp_path / "build" / source.replace(".cc", ".o")
                before = target.stat().st_mtime_ns if target.exists() else None
                compilation.compile(source, target)
                if target.stat().st_mtime_ns != before:
                    compiled.append(source)
            return compiled

        assert compile_all() == ["a.cc", "b.cc"]
        return tmp_path, compile_all

    def test_nothing_changed(self, tree):
        root, compile_all = tree
        os.utime(root / "a.h")
        assert compile_all() == []

    def test_header_changed(self, tree):
        root, compile_all = tree
        (root / "a.h").write_text("int a();  // changed\n")
        assert compile_all() == ["a.cc"]
        assert compile_all() == []

    def test_source_changed(self, tree):
        root, compile_all = tree
        (root / "b.cc").write_text("int b() { return 3; }\n")
        assert compile_all() == ["b.cc"]

    def test_flags_or_compiler_changed(self, tree):
        _, compile_all = tree
        assert compile_all("-O1") == ["a.cc", "b.cc"]
        assert compile_all("-O1") == []
        assert compile_all("-O1", key="another") == ["a.cc", "b.cc"]

    def test_object_lost_or_record_damaged(self, tree):
        root, compile_all = tree
        (root / "build" / "a.o").unlink()
        (root / "build" / "b.json").write_text("{")
        assert compile_all() == ["a.cc", "b.cc"]

    def test_error_leaves_no_object_to_trust(self, tree, capfd):
        root, compile_all = tree
        (root / "b.cc").write_text("int b() { return }\n")
        for _ in range(2):
            with pytest.raises(Exception, match="command failed with status"):
                compile_all()
            assert "error:" in capfd.readouterr().err


class TestHouseRules:
    """Rules on what may import what, which no linter knows."""

    def test_core_is_plain_cpp(self):
        for path in (ROOT / "custom_ops" / "core").iterdir():
            if path.is_file():
                includes = re.findall(r'#include ["<]([^">]*)', path.read_text())
                assert not [
                    name
                    for name in includes
                    if "/" in name and not name.startswith("custom_ops/core/")
                ], path

    def test_public_interfaces_of_tensorflow_and_keras(self):
        private = re.compile(r"\b(tensorflow\.python|keras\.src)\b")
        for path in (ROOT / "keras_lsh").rglob("*.py"):
            assert not private.search(path.read_text()), path
