"""What tests of several directories share."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_lsh


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Initial weights do not depend on which tests ran before in this process."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def reads_share_a_buffer():
    """A function that tells whether reads of a `tf.Variable` are no copies of it.

    They are where TensorFlow has put it into copy-on-read mode, as a gather does.
    """

    def share(variable):
        reads = [variable.read_value() for _ in range(2)]
        first, second = (np.asarray(memoryview(read)).ctypes.data for read in reads)
        return first == second

    return share


@pytest.fixture(scope="session")
def run_python():
    """A function that runs a program in a fresh process and returns what it prints.

    The process finds this package if it imports it; with `isolated=True` it does not,
    unless the package is installed.
    """

    def run(program, *arguments, isolated=False, cwd=None):
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3"} | dict(os.environ)
        environment.pop("PYTHONPATH", None)
        if not isolated:
            environment["PYTHONPATH"] = str(Path(keras_lsh.__file__).parent.parent)
        result = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=cwd or os.path.expanduser("~"),
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, f"{result.returncode}\n{result.stderr[-5000:]}"
        return result.stdout

    return run
