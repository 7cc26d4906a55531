"""Training that can be killed at any point and goes on, as the other examples do it.

Training is cut into segments of so many steps. A segment is one call of `fit`, whose
batches depend on the number of its first step and nothing else; after it all that
training has changed, and the figures so far, go into one file. Whoever starts again
takes up the last file: the model, the optimizer and the batches are then, bit for bit,
what they would be in a run that was never stopped. What is lost is less than a segment.

    options = parser.parse_args()
    with resumable.directory(options.output, options.restart) as output:
        history = resumable.train(model, batches_from, ..., output=output)
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

# It imports TensorFlow without its greetings, so it comes first.
import demo  # noqa: F401

# isort: split
import keras
import numpy as np
import tensorflow as tf

import keras_lsh

_CHECKPOINT = "checkpoint"
# The first bytes of a checkpoint. After it come the size of the header (8 bytes, the
# lowest first), the header (JSON), the variables one after the other, and the SHA-256
# of everything before.
_MAGIC = b"keras_lsh example 1\n"
_HASH = hashlib.sha256
_HASH_SIZE = _HASH().digest_size
# Bytes that are read at a time to check a file.
_BLOCK = 1 << 22


class CheckpointError(Exception):
    """A checkpoint that cannot be gone on from, or not be written, and what to do."""


def add_arguments(
    parser: argparse.ArgumentParser, *, output: str, segment: int
) -> None:
    """Adds the arguments that all examples share, with these defaults."""
    parser.add_argument(
        "--quick", action="store_true", help="little data, to see it run in seconds"
    )
    parser.add_argument(
        "--segment",
        type=positive,
        default=segment,
        metavar="STEPS",
        help="training steps between two checkpoints; Keras' progress bar calls so "
        "many an epoch (default: %(default)s)",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=output,
        metavar="DIR",
        help="where checkpoint and results go; what was stopped goes on from there "
        "(default: %(default)s; with --quick, %(default)s_quick)",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="delete the checkpoint in the output directory and begin anew",
    )


def parse(parser: argparse.ArgumentParser, quick: dict[str, Any]) -> argparse.Namespace:
    """The arguments, with other defaults where there is `--quick`."""
    if parser.parse_known_args()[0].quick:
        output = f"{parser.get_default('output')}_quick"
        parser.set_defaults(**quick, output=output)
    return parser.parse_args()


def positive(text: str) -> int:
    """A positive integer, for `argparse`."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def positive_number(text: str) -> float:
    """A positive finite number, for `argparse`."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {number}")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, not {number}")
    return number


def run(main: Callable[[], None]) -> None:
    """Calls `main`; what a user can put right ends in a message, not in a traceback."""
    try:
        main()
    except (CheckpointError, keras_lsh.ops.OpLibraryError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the last checkpoint.")
        sys.exit(130)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Ends the program with a message where data cannot be read or used."""
    try:
        yield
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


@contextlib.contextmanager
def directory(path: pathlib.Path, restart: bool = False) -> Iterator[pathlib.Path]:
    """A directory for checkpoint and results, made if need be, for one process alone.

    Args:
        path: of the directory.
        restart: whether to delete the checkpoint in it.

    Raises:
        CheckpointError: if it cannot be used, or another process does.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"The output directory cannot be used: {error}") from None
    try:
        # It ends with the process, however that ends.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"Another process is at work in {path}. Wait for it, or use another "
                "--output."
            ) from None
        if restart:
            (path / _CHECKPOINT).unlink(missing_ok=True)
        yield path
    finally:
        os.close(handle)


def train(
    model: keras.Model,
    batches_from: Callable[[int], tf.data.Dataset],
    *,
    steps: int,
    segment: int,
    rebuild_every: int,
    output: pathlib.Path,
    identity: dict[str, Any],
) -> list[dict[str, float]]:
    """Trains a model, or goes on with what the checkpoint in a directory has.

    Args:
        model: built and compiled, as it is before the first step.
        batches_from: gives the batches from a step on, counted from 0, that the whole
            training has; at least a segment of them.
        steps: of the whole training.
        segment: steps between two checkpoints.
        rebuild_every: steps between two rebuilds of the hash tables.
        output: of `directory`.
        identity: everything that the result depends on, by names that users know: a
            checkpoint with another one is refused. JSON values. The versions of the
            packages, `segment` and `rebuild_every` are added here.

    Returns:
        A dictionary for each segment: `steps` from the beginning of training, `seconds`
        that it took, and what `fit` has logged.

    Raises:
        CheckpointError: if there is a checkpoint that is damaged or of something else,
            or if one cannot be written.
    """
    path = output / _CHECKPOINT
    identity = {
        **identity,
        "segment": segment,
        "rebuild_every": rebuild_every,
        **{
            f"version of {package.__name__}": package.__version__
            for package in (keras_lsh, keras, tf)
        },
    }
    segments = -(-steps // segment)
    model.optimizer.build(model.trainable_variables)
    history = restore(path, model, identity) if path.exists() else []
    if history:
        print(f"Going on from {path}, after step {int(history[-1]['steps']):,}:")
        for number, figures in enumerate(history, start=1):
            print(f"  {number}/{segments}: {_line(figures)}")
    # `fit` numbers its epochs through: one here is a segment.
    only_this_one = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
    )
    # It begins anew with each segment, as in a run that goes on.
    rebuild = keras_lsh.RebuildTables(every=rebuild_every)
    for number in range(len(history), segments):
        first = number * segment
        count = min(segment, steps - first)
        start = time.perf_counter()
        logs = model.fit(
            batches_from(first).take(count),
            epochs=segments,
            initial_epoch=number,
            steps_per_epoch=count,
            shuffle=False,  # `batches_from` has done that
            callbacks=[rebuild, only_this_one],
            verbose=verbosity(),
        ).history
        history.append(
            {
                "steps": first + count,
                "seconds": time.perf_counter() - start,
                **{name: float(values[-1]) for name, values in logs.items()},
            }
        )
        save(path, model, identity, history)
    return history


def verbosity() -> int:
    """Of Keras: bars, drawn over and over, fill a log file; there, lines."""
    return 1 if sys.stdout.isatty() else 2


def milliseconds(history: list[dict[str, float]]) -> float:
    """The mean time of a step, with everything that `fit` does besides.

    Without the first segment, in which functions are traced, if there are others.
    """
    measured = history[1:] or history
    steps = history[-1]["steps"] - (history[0]["steps"] if history[1:] else 0)
    return 1000 * sum(figures["seconds"] for figures in measured) / steps


def digest(*arrays: np.ndarray) -> str:
    """A checksum of data, for `identity`."""
    checksum = _HASH()
    for array in arrays:
        checksum.update(f"{array.dtype.str}{array.shape}".encode())
        checksum.update(_bytes(array))
    return checksum.hexdigest()[:16]


def write_results(
    output: pathlib.Path, history: list[dict[str, float]], figures: dict[str, Any]
) -> pathlib.Path:
    """Writes `results.json`: the figures at the end, and those of each segment."""
    path = output / "results.json"
    text = json.dumps({"figures": figures, "history": history}, indent=2)
    with replacing(path) as file:
        file.write(f"{text}\n".encode())
    return path


def save(
    path: pathlib.Path,
    model: keras.Model,
    identity: dict[str, Any],
    history: list[dict[str, float]],
) -> None:
    """Writes a checkpoint: the whole of it, or the one before stays."""
    variables = _variables(model)
    header = {
        "identity": identity,
        "history": history,
        "variables": [_signature(variable) for variable in variables],
    }
    text = json.dumps(header).encode()
    checksum = _HASH()

    with replacing(path) as file:

        def write(data: Any) -> None:
            checksum.update(data)
            file.write(data)

        write(_MAGIC)
        write(len(text).to_bytes(8, "little"))
        write(text)
        for variable in variables:
            write(_bytes(variable.numpy()))
        file.write(checksum.digest())


def restore(
    path: pathlib.Path, model: keras.Model, identity: dict[str, Any]
) -> list[dict[str, float]]:
    """Gives model and optimizer the state of a checkpoint, and returns its history.

    Raises:
        CheckpointError: if the file cannot be read, is damaged, or is of another model
            or `identity`. The model is as before then.
    """
    try:
        with open(path, "rb") as file:
            _check(file, path)
            file.seek(len(_MAGIC))
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            _check_identity(path, header["identity"], identity)
            variables = _variables(model)
            signatures = [_signature(variable) for variable in variables]
            if header["variables"] != signatures:
                raise CheckpointError(
                    f"{path} holds other variables than this model has. {_WAY_OUT}"
                )
            for variable in variables:
                array = np.empty(variable.shape, variable.dtype)
                file.readinto(_bytes(array))
                variable.assign(array)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}. {_WAY_OUT}"
        ) from None
    return list(header["history"])


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file that takes the place of another one once it is written as a whole.

    Raises:
        CheckpointError: if it cannot be written. The one before is there still.
    """
    scratch = path.with_name(f"{path.name}.incomplete")
    try:
        with open(scratch, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        # Its new name should be on the disk, too.
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}. What was written before is "
            "intact: mend that, and the same command goes on."
        ) from None


_WAY_OUT = (
    "Delete it, or pass --restart, to begin anew; or use another --output to keep it."
)


def _check(file: BinaryIO, path: pathlib.Path) -> None:
    """Raises CheckpointError unless the file is a checkpoint and as it was written."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise CheckpointError(
            f"{path} is no checkpoint of these examples, or is damaged. {_WAY_OUT}"
        )
    left = os.fstat(file.fileno()).st_size - len(_MAGIC) - _HASH_SIZE
    checksum = _HASH(_MAGIC)
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        checksum.update(block)
        left -= len(block)
    if left != 0 or file.read() != checksum.digest():
        raise CheckpointError(f"{path} is damaged: its checksum is wrong. {_WAY_OUT}")


def _check_identity(
    path: pathlib.Path, there: dict[str, Any], here: dict[str, Any]
) -> None:
    differences = [
        f"{name}: {there.get(name)} there, {here.get(name)} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if differences:
        raise CheckpointError(
            f"{path} is of another run ({'; '.join(differences)}). Start it as it was "
            f"started then, and it goes on. {_WAY_OUT}"
        )


def _variables(model: keras.Model) -> list[keras.Variable]:
    """All that training changes, the metrics apart, which begin anew."""
    return [*model.variables, *model.optimizer.variables]


def _signature(variable: keras.Variable) -> list[Any]:
    return [variable.path, list(variable.shape), np.dtype(variable.dtype).str]


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of an array, which must be contiguous to be written to."""
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _line(figures: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {value:,.0f}" if name == "steps" else f"{name} {value:.4g}"
        for name, value in figures.items()
    )
