"""Loading the op library: when, once, and with one clear error when it is not fit."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import keras_lsh
from keras_lsh.ops import (
    OpLibraryError,
    library,
    library_path,
    reference_ops,
    simd_level,
    using_reference,
)

PACKAGE = Path(keras_lsh.__file__).parent
LEVELS = ("scalar", "avx2", "avx512")
# `keras_lsh.ops.library` is the function: this is the module it comes from.
module = importlib.import_module("keras_lsh.ops.library")


def run_python(program: str, directory: Path, **environment: str) -> str:
    """Runs a program in a process that finds the package in `directory`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("KERAS_LSH_")}
    env |= {"PYTHONPATH": str(directory), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, f"{result.returncode}\n{result.stderr}"
    return result.stdout


@pytest.fixture
def unloaded(monkeypatch):
    """The state before the library was loaded; the library itself stays."""
    monkeypatch.setattr(module, "_module", None)
    monkeypatch.setattr(module, "_simd_level", None)
    monkeypatch.delenv("KERAS_LSH_SIMD", raising=False)


@pytest.fixture
def no_reference(monkeypatch):
    monkeypatch.delenv("KERAS_LSH_REFERENCE_OPS", raising=False)


class TestLoading:
    def test_same_module_every_time(self):
        assert library() is library()
        assert hasattr(library(), "lsh_hash_codes")
        assert library_path() == str(PACKAGE / "ops" / "_keras_lsh_ops.so")

    def test_import_loads(self):
        program = """
import importlib, keras_lsh
module = importlib.import_module("keras_lsh.ops.library")
print(module._module is not None)
"""
        assert run_python(program, PACKAGE.parent).strip() == "True"
        output = run_python(program, PACKAGE.parent, KERAS_LSH_REFERENCE_OPS="1")
        assert output.strip() == "False"

    def test_threads_load_once(self):
        program = """
import importlib, threading, keras_lsh
module = importlib.import_module("keras_lsh.ops.library")
module._module = None
barrier, modules = threading.Barrier(8), []
def load():
    barrier.wait()
    modules.append(module.library())
threads = [threading.Thread(target=load) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(modules) == 8 and len(set(map(id, modules))) == 1
print(module.simd_level())
"""
        output = run_python(program, PACKAGE.parent, KERAS_LSH_SIMD="scalar")
        assert output.strip() == "scalar"


class TestSimdLevel:
    def test_default_is_a_level(self):
        assert simd_level() in LEVELS

    def test_invalid(self, unloaded, monkeypatch):
        monkeypatch.setenv("KERAS_LSH_SIMD", "sse2")
        with pytest.raises(
            ValueError, match=r"expected one of .*'avx2'.*KERAS_LSH_SIMD=sse2"
        ):
            library()

    def test_not_of_this_processor(self, unloaded, monkeypatch):
        monkeypatch.setenv("KERAS_LSH_SIMD", "avx512")
        monkeypatch.setattr(module, "_load", lambda: (object(), "avx2"))
        with pytest.raises(
            ValueError, match=r"\('scalar', 'avx2'\).*KERAS_LSH_SIMD=avx512"
        ):
            library()
        with pytest.raises(ValueError, match="KERAS_LSH_SIMD"):
            simd_level()

    def test_empty_is_the_default(self, unloaded, monkeypatch):
        monkeypatch.setenv("KERAS_LSH_SIMD", "")
        assert simd_level() in LEVELS


class TestReference:
    def test_environment(self, no_reference, monkeypatch):
        assert not using_reference()
        for value, expected in (("1", True), ("0", False), ("", False)):
            monkeypatch.setenv("KERAS_LSH_REFERENCE_OPS", value)
            assert using_reference() is expected

    @pytest.mark.parametrize("value", ["yes", "true", "2", " 1"])
    def test_environment_invalid(self, value, monkeypatch):
        monkeypatch.setenv("KERAS_LSH_REFERENCE_OPS", value)
        with pytest.raises(
            ValueError, match=f"expected 0 or 1.*KERAS_LSH_REFERENCE_OPS={value}"
        ):
            using_reference()

    def test_scopes_nest(self, no_reference):
        with reference_ops():
            assert using_reference()
            with reference_ops(enabled=False):
                assert not using_reference()
                with reference_ops():
                    assert using_reference()
                assert not using_reference()
            assert using_reference()
        assert not using_reference()

    def test_scope_ends_with_an_exception(self, no_reference):
        with pytest.raises(KeyError), reference_ops():
            raise KeyError
        assert not using_reference()

    def test_scope_is_of_its_thread(self, no_reference):
        seen = []
        with reference_ops():
            thread = threading.Thread(target=lambda: seen.append(using_reference()))
            thread.start()
            thread.join()
        assert seen == [False]

    def test_scope_overrides_the_environment(self, monkeypatch):
        monkeypatch.setenv("KERAS_LSH_REFERENCE_OPS", "1")
        with reference_ops(enabled=False):
            assert not using_reference()


def other_minor(version: str) -> str:
    major, minor = version.split(".")[:2]
    return f"{major}.{int(minor) + 1}.0"


STAMP = json.loads((PACKAGE / "ops" / "_build_info.json").read_text())
if STAMP["library"] is None:
    pytest.skip("installed without the op library", allow_module_level=True)
OTHER_TENSORFLOW = other_minor(STAMP["tensorflow"])
MEND = "pip install --no-build-isolation --force-reinstall --no-deps"

# What is done to a copy of the package, and a part of the message.
DAMAGE = {
    "library missing": ("library.unlink()", "no compiled library at"),
    "stamp missing": ("stamp.unlink()", "_build_info.json is missing"),
    "both missing": ("library.unlink(); stamp.unlink()", "no compiled library at"),
    "stamp not JSON": ("stamp.write_text('{')", "_build_info.json is damaged"),
    "stamp binary": ("stamp.write_bytes(bytes([255] * 9))", "is damaged"),
    "stamp not an object": ("stamp.write_text('[]')", "_build_info.json is damaged"),
    "stamp incomplete": ("edit(tensorflow=REMOVE)", "(KeyError: 'tensorflow')"),
    "another TensorFlow": (
        f"edit(tensorflow='{OTHER_TENSORFLOW}')",
        f"built for TensorFlow {OTHER_TENSORFLOW} and this is TensorFlow "
        f"{STAMP['tensorflow']}",
    ),
    "another keras_lsh": ("edit(keras_lsh='9.9')", "was built for keras_lsh 9.9"),
    "installed without": ("edit(library=None)", "installed without its compiled"),
    "library empty": ("library.write_bytes(b'')", "is not a shared library"),
    "library is text": ("library.write_text('x' * 999)", "is not a shared library"),
    "library is a directory": ("library.unlink(); library.mkdir()", "cannot be read"),
    "library cut short": ("library.write_bytes(content[:9999])", "is cut short"),
    "library nearly whole": ("library.write_bytes(content[:-1])", "is cut short"),
    "undefined symbol": (
        "replace(content.replace(b'OpKernelContext', b'OpKernelKontext'))",
        "undefined symbol",
    ),
    "foreign library": (
        "replace(open(FOREIGN, 'rb').read())",
        "is not the library of keras_lsh",
    ),
}

DAMAGE_PROGRAM = """
import importlib, json, pathlib, shutil, sys
import keras_lsh
module = importlib.import_module("keras_lsh.ops.library")
library, stamp = module._LIBRARY, module._STAMP
content, facts = library.read_bytes(), json.loads(stamp.read_text())
REMOVE, FOREIGN = object(), sys.argv[1]

def edit(**changes):
    edited = {k: v for k, v in (facts | changes).items() if v is not REMOVE}
    stamp.write_text(json.dumps(edited))

def replace(new_content):
    # A new file each time: the linker knows files by their inode.
    global library
    library = library.with_name(f"other_{replace.count}.so")
    replace.count += 1
    library.write_bytes(new_content)
    module._LIBRARY = library
replace.count = 0

results = {}
for name, action in json.loads(sys.argv[2]).items():
    library = module._LIBRARY = module._DIRECTORY / "_keras_lsh_ops.so"
    if library.is_dir(): library.rmdir()
    library.write_bytes(content)
    stamp.write_text(json.dumps(facts))
    exec(action)
    try:
        module.library()
        results[name] = "no error"
    except module.OpLibraryError as error:
        results[name] = str(error)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def package_copy(tmp_path_factory):
    directory = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, directory / "keras_lsh", ignore=ignore)
    return directory


@pytest.fixture(scope="module")
def messages(package_copy):
    actions = json.dumps({name: action for name, (action, _) in DAMAGE.items()})
    foreign = np.random._mt19937.__file__
    program = f"import sys; sys.argv = ['', {foreign!r}, {actions!r}]"
    output = run_python(
        program + DAMAGE_PROGRAM, package_copy, KERAS_LSH_REFERENCE_OPS="1"
    )
    return json.loads(output)


class TestDamage:
    @pytest.mark.parametrize("name", DAMAGE)
    def test_one_clear_error(self, name, messages):
        message = messages[name]
        assert DAMAGE[name][1] in message
        assert message.startswith("The compiled ops of keras_lsh cannot be used: ")
        assert MEND in message
        assert "KERAS_LSH_REFERENCE_OPS=1" in message

    def test_error_is_an_import_error(self):
        assert issubclass(OpLibraryError, ImportError)

    def test_checkout_has_its_own_command(self):
        if not (PACKAGE.parent / "setup.py").exists():
            pytest.skip("the package under test is not in a checkout")
        message = str(module._error("reason"))
        assert (
            f"cd {PACKAGE.parent} && pip install --no-build-isolation -e ." in message
        )


class TestWithoutLibrary:
    PROGRAM = """
import warnings
import keras_lsh
from keras_lsh.ops import hash_codes, using_reference
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    codes = [hash_codes([[1.0, -1.0, 1.0]], tables=1, bits=3) for _ in range(2)]
ours = [w for w in caught if "keras_lsh" in str(w.message)]
print(using_reference(), int(codes[0][0, 0]), len(ours))
"""

    @pytest.fixture
    def bare_copy(self, package_copy, tmp_path):
        ignore = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.json")
        shutil.copytree(
            package_copy / "keras_lsh", tmp_path / "keras_lsh", ignore=ignore
        )
        return tmp_path

    def test_reference_ops_by_the_environment(self, bare_copy):
        output = run_python(self.PROGRAM, bare_copy, KERAS_LSH_REFERENCE_OPS="1")
        assert output.split() == ["True", "5", "0"]

    def test_reference_ops_serve_an_installation_without(self, bare_copy):
        stamp = {"keras_lsh": keras_lsh.__version__, "library": None}
        path = bare_copy / "keras_lsh" / "ops" / "_build_info.json"
        path.write_text(json.dumps(stamp))
        assert run_python(self.PROGRAM, bare_copy).split() == ["True", "5", "1"]
