"""The facts that a benchmark's row needs to be understood elsewhere."""

import os
import platform
import re
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_lsh
from keras_lsh import ops


def facts(seed: int) -> dict[str, Any]:
    """The machine, the versions, the threads and the seed, as one flat dictionary.

    Call it when the threads of TensorFlow are set up.

    Args:
        seed: What the benchmark's random numbers start from.

    Returns:
        `cpu` (model), `cores` (that this process may use), `simd` (level of the
        compiled ops, or "reference"), `memory_gib`, `load` (average over the last
        minute: above the number of threads, other work disturbs the figures),
        `python`, `tensorflow`, `keras`, `keras_lsh` (versions), `threads` (of
        TensorFlow, within an op) and `seed`.
    """
    cores = len(os.sched_getaffinity(0))
    return {
        "cpu": _first_match("/proc/cpuinfo", r"model name\s*: (.*)"),
        "cores": cores,
        "simd": "reference" if ops.using_reference() else ops.simd_level(),
        "memory_gib": round(proc_kib("/proc/meminfo", "MemTotal") / 2**20, 1),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "keras_lsh": keras_lsh.__version__,
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or cores,
        "seed": seed,
    }


def proc_kib(path: str, name: str) -> int:
    """A figure in KiB from a file of /proc, e.g. `VmHWM` from /proc/self/status."""
    return int(_first_match(path, rf"{name}:\s*(\d+) kB") or 0)


def reset_peak_memory() -> None:
    """Makes `VmHWM`, the peak of this process's resident memory, start anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _first_match(path: str, pattern: str) -> str:
    match = re.search(pattern, Path(path).read_text())
    return match.group(1).strip() if match else ""
