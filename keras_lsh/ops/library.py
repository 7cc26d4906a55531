"""The compiled op library: found, checked and loaded.

A library of TensorFlow ops is bound to the minor version of TensorFlow it was compiled
against: under another one it does not load, or worse, it does. The build leaves a stamp
beside the library (`_build_info.json`), and it is compared with the running TensorFlow
before the library is touched. Importing `keras_lsh` loads it, so that SavedModels with
its ops load from then on, but never fails: what is wrong is said when an op is used.

Environment variables:
    KERAS_LSH_REFERENCE_OPS: 1 runs the reference ops (plain TensorFlow, slower) and not
        the compiled ones. The default is 0.
    KERAS_LSH_SIMD: `scalar`, `avx2` or `avx512` forces the instructions that the
        compiled ops use; the default is the widest that the processor has.
"""

import contextlib
import ctypes
import functools
import json
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow as tf

from keras_lsh._version import __version__

SIMD_LEVELS = ("scalar", "avx2", "avx512")

_DIRECTORY = Path(__file__).resolve().parent
_LIBRARY = _DIRECTORY / "_keras_lsh_ops.so"
_STAMP = _DIRECTORY / "_build_info.json"

_lock = threading.Lock()
_local = threading.local()
_module: ModuleType | None = None
_simd_level: str | None = None


class OpLibraryError(ImportError):
    """The compiled op library is missing, damaged, or made for another TensorFlow."""


def library_path() -> str:
    """Where the compiled op library is, or would be, for `tf.load_op_library`.

    A process that serves a SavedModel needs only that file, not this package.
    """
    return str(_LIBRARY)


def library() -> ModuleType:
    """Loads the compiled ops, the first time, and returns the module that wraps them.

    Raises:
        OpLibraryError: if the library is missing, damaged, not this project's, or was
            compiled for another TensorFlow; the message has the command that mends it.
        ValueError: if `KERAS_LSH_SIMD` names no level, or one that the processor lacks.
    """
    global _module, _simd_level
    if _module is None:
        with _lock:
            if _module is None:
                wanted = _wanted_simd_level()
                _check_stamp()
                _check_complete()
                module, level = _load()
                if wanted not in ("", level):
                    raise ValueError(
                        "Received an invalid value for the environment variable "
                        "KERAS_LSH_SIMD, expected a level that this processor has "
                        f"({_levels(SIMD_LEVELS[: SIMD_LEVELS.index(level) + 1])}). "
                        f"Received: KERAS_LSH_SIMD={wanted}"
                    )
                _module, _simd_level = module, level
    return _module


def load_on_import() -> None:
    """Loads the compiled ops if there is nothing against it; raises nothing."""
    if os.environ.get("KERAS_LSH_REFERENCE_OPS") != "1":
        with contextlib.suppress(OpLibraryError, ValueError):
            library()


def simd_level() -> str:
    """The instructions that the compiled ops use: `scalar`, `avx2` or `avx512`.

    Raises:
        OpLibraryError, ValueError: as `library()`.
    """
    library()
    assert _simd_level is not None
    return _simd_level


def using_reference() -> bool:
    """Whether ops called now, in this thread, are the reference ops.

    So it is inside `reference_ops()`, with `KERAS_LSH_REFERENCE_OPS=1`, and where the
    package was installed without its compiled library.
    """
    stack = getattr(_local, "stack", ())
    if stack:
        return stack[-1]
    value = os.environ.get("KERAS_LSH_REFERENCE_OPS", "")
    if value not in ("", "0", "1"):
        raise ValueError(
            "Received an invalid value for the environment variable "
            "KERAS_LSH_REFERENCE_OPS, expected 0 or 1. "
            f"Received: KERAS_LSH_REFERENCE_OPS={value}"
        )
    if value:
        return value == "1"
    return _installed_without_library()


@contextlib.contextmanager
def reference_ops(enabled: bool = True) -> Iterator[None]:
    """Runs the reference ops in place of the compiled ones, in this thread.

    What counts is when an op is called or traced, not when its graph runs. Scopes nest;
    `enabled=False` asks for the compiled ops inside one.
    """
    if not hasattr(_local, "stack"):
        _local.stack = []
    _local.stack.append(enabled)
    try:
        yield
    finally:
        _local.stack.pop()


@functools.cache
def _installed_without_library() -> bool:
    try:
        without = _read_stamp()["library"] is None
    except (OSError, ValueError, KeyError):
        return False  # Damage is for library() to report.
    if without:
        warnings.warn(
            "keras_lsh was installed without its compiled ops: the slower reference "
            "ops serve. KERAS_LSH_REFERENCE_OPS=1 silences this warning.",
            stacklevel=3,
        )
    return without


def _read_stamp() -> dict[str, Any]:
    stamp = json.loads(_STAMP.read_text())
    if not isinstance(stamp, dict):
        raise ValueError(f"expected an object, found {stamp!r}")
    return stamp


def _check_stamp() -> None:
    if not _STAMP.exists() and not _LIBRARY.exists():
        raise _error(f"there is no compiled library at {_LIBRARY}")
    try:
        stamp = _read_stamp()
        library_name, package = stamp["library"], str(stamp["keras_lsh"])
        if library_name is None:
            raise _error("this keras_lsh was installed without its compiled library")
        built = str(stamp["tensorflow"])
    except FileNotFoundError:
        raise _error(
            f"{_STAMP} is missing, which says what {_LIBRARY.name} was built for"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise _error(
            f"{_STAMP} is damaged, which says what {_LIBRARY.name} was built for "
            f"({type(error).__name__}: {error})"
        ) from None
    if _minor(built) != _minor(tf.__version__):
        raise _error(
            f"it was built for TensorFlow {built} and this is TensorFlow "
            f"{tf.__version__}; a library of ops serves one minor version only"
        )
    if package != __version__:
        raise _error(
            f"it was built for keras_lsh {package} and this is keras_lsh {__version__}"
        )
    if not _LIBRARY.exists():
        raise _error(f"there is no compiled library at {_LIBRARY}")


def _check_complete() -> None:
    """Reports a file that is no library, or only the beginning of one.

    The dynamic linker maps what the header promises: a file cut short (a full disk, an
    interrupted copy) would end the process with a bus error.
    """
    # The ELF header of a 64-bit little-endian machine. It says where the section
    # headers are, and these are at the end of the file.
    layout = struct.Struct("<4sBB10xHHIQQQIHHHHHH")
    try:
        with _LIBRARY.open("rb") as file:
            header = file.read(layout.size)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _error(f"{_LIBRARY} cannot be read ({error})") from None
    if len(header) < layout.size or not header.startswith(b"\x7fELF\x02\x01"):
        raise _error(f"{_LIBRARY} is not a shared library")
    fields = layout.unpack(header)
    section_offset, entry_size, entries = fields[8], fields[13], fields[14]
    if section_offset + entry_size * entries > size:
        raise _error(f"{_LIBRARY} is cut short")


def _load() -> tuple[ModuleType, str]:
    try:
        module = tf.load_op_library(str(_LIBRARY))
        # Only now: loaded by ctypes first, its ops would escape load_op_library.
        function = ctypes.CDLL(str(_LIBRARY)).keras_lsh_simd_level
    except AttributeError:
        raise _error(f"{_LIBRARY} is not the library of keras_lsh") from None
    except (tf.errors.OpError, OSError, ImportError, RuntimeError) as error:
        raise _error(f"it does not load ({error})") from error
    function.restype = ctypes.c_char_p
    return module, function().decode()


def _wanted_simd_level() -> str:
    value = os.environ.get("KERAS_LSH_SIMD", "")
    if value not in ("", *SIMD_LEVELS):
        raise ValueError(
            "Received an invalid value for the environment variable KERAS_LSH_SIMD, "
            f"expected one of {_levels(SIMD_LEVELS)}. Received: KERAS_LSH_SIMD={value}"
        )
    return value


def _levels(levels: tuple[str, ...]) -> str:
    return ", ".join(f"'{level}'" for level in levels)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _error(reason: str) -> OpLibraryError:
    checkout = _DIRECTORY.parent.parent
    if (checkout / "setup.py").exists() and (checkout / "custom_ops").exists():
        mend = f"    cd {checkout} && pip install --no-build-isolation -e ."
    else:
        mend = (
            "    pip install --no-build-isolation --force-reinstall --no-deps "
            "--no-cache-dir keras_lsh\n"
            "or, from a checkout,\n"
            "    pip install --no-build-isolation --force-reinstall --no-deps ."
        )
    return OpLibraryError(
        f"The compiled ops of keras_lsh cannot be used: {reason}.\n"
        "Compile and install it for the TensorFlow of this environment:\n"
        f"{mend}\n"
        "Or run without it, on the slower reference ops, by setting the environment "
        "variable KERAS_LSH_REFERENCE_OPS=1."
    )
