"""Extreme classification: sets with sparse features and any number of labels a sample.

The text format is that of the Extreme Classification repository (Bhatia et al., "The
Extreme Classification Repository: Multi-label Datasets and Code", 2016,
http://manikvarma.org/downloads/XC/XMLRepository.html): a line of three integers, the
number of points, features and labels; then a line for each point,

    label,label,label feature:value feature:value

with ids from 0. The line of a point without labels starts with a space.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import itertools
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh._arguments import check_argument, check_choice, is_integer
from keras_lsh.datasets._random import check_positive, check_seed

Path = str | os.PathLike[str]

_MAX_INT32 = 2**31 - 1
# Bytes of text that are parsed at a time.
_BLOCK = 1 << 22
# Samples that go from Python to tf.data at a time where there is no shuffling.
_WINDOW = 1024

# What a byte of a plain line can be.
_DIGIT, _DOT, _SIGN_OR_EXPONENT, _DELIMITER, _OTHER = range(5)
_NEWLINE, _SPACE, _COLON, _COMMA = b"\n :,"
_CLASS_OF_BYTE = np.full(256, _OTHER, np.uint8)
for _class, _bytes in enumerate((b"0123456789", b".", b"+-eE", b"\n :,")):
    _CLASS_OF_BYTE[list(_bytes)] = _class
_TO_SPACES = bytes.maketrans(b"\n:,", b"   ")
_NUMBER = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclasses.dataclass(frozen=True, eq=False)
class XCData:
    """A set of samples with sparse features and labels, in memory.

    Sample `i` has `values[indptr[i]:indptr[i + 1]]` at the features `indices[...]` of
    the same places, and the labels
    `label_indices[label_indptr[i]:label_indptr[i + 1]]`; ids are ascending within a
    sample. The first three arrays are those of a `scipy.sparse.csr_matrix`.

    Attributes:
        features: number of features.
        labels: number of labels.
        indptr: int64 `(samples + 1,)`.
        indices: int32 `(entries,)`, in `[0, features)`.
        values: float32 `(entries,)`, finite.
        label_indptr: int64 `(samples + 1,)`.
        label_indices: int32 `(any,)`, in `[0, labels)`.

    Raises:
        ValueError: if the arrays are not of this form.
    """

    features: int
    labels: int
    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    label_indptr: np.ndarray
    label_indices: np.ndarray

    def __post_init__(self) -> None:
        for name in ("features", "labels"):
            check_positive(name, getattr(self, name))
        for prefix, width in (("", self.features), ("label_", self.labels)):
            names = f"{prefix}indptr", f"{prefix}indices"
            arrays = [np.asarray(getattr(self, name)) for name in names]
            for name, array in zip(names, arrays, strict=True):
                _check_array(
                    name,
                    array,
                    array.ndim == 1 and (array.dtype.kind in "iu" or array.size == 0),
                    "a one-dimensional array of integers",
                )
            _check_rows(names, arrays[0], arrays[1], width)
            for name, array, dtype in zip(
                names, arrays, (np.int64, np.int32), strict=True
            ):
                object.__setattr__(self, name, array.astype(dtype, copy=False))
        with np.errstate(over="ignore"):
            values = np.asarray(self.values).astype(np.float32, copy=False)
        _check_array(
            "values",
            values,
            values.shape == self.indices.shape and bool(np.isfinite(values).all()),
            "finite float32 numbers, as many as indices",
        )
        object.__setattr__(self, "values", values)
        _check_array(
            "label_indptr",
            self.label_indptr,
            self.label_indptr.shape == self.indptr.shape,
            "as many elements as indptr",
        )

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.indptr) - 1

    def take(self, samples: Any) -> XCData:
        """The given samples in the given order.

        Args:
            samples: integers `(any,)` from 0 to `len(self) - 1`.

        Raises:
            IndexError: if there is no such sample.
        """
        samples = np.asarray(samples, dtype=np.int64)
        if samples.size and not 0 <= samples.min() <= samples.max() < len(self):
            raise IndexError(
                f"Received invalid samples, expected integers in [0, {len(self)}). "
                f"Received: from {samples.min()} to {samples.max()}"
            )
        indptr, places = _entries_of(self.indptr, samples)
        label_indptr, label_places = _entries_of(self.label_indptr, samples)
        return XCData(
            self.features,
            self.labels,
            indptr,
            self.indices[places],
            self.values[places],
            label_indptr,
            self.label_indices[label_places],
        )

    def steps_per_epoch(self, batch_size: int, drop_remainder: bool = False) -> int:
        """The number of batches that the samples make once."""
        check_positive("batch_size", batch_size)
        full, rest = divmod(len(self), batch_size)
        return full + (rest > 0 and not drop_remainder)

    def dataset(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epochs: int | None = 1,
        start_step: int = 0,
        drop_remainder: bool = False,
    ) -> tf.data.Dataset:
        """Batches for `fit`, in an order that can be taken up again at any of them.

        The order of epoch `e` is
        `numpy.random.RandomState([seed, e]).permutation(samples)`: it depends on
        nothing but `seed` and `e`. To go on after `n` steps, ask for `start_step=n`;
        the batches before it are not computed.

        Example:

        ```python
        steps = train.steps_per_epoch(128)
        batches = train.dataset(128, seed=0, epochs=None)
        model.fit(batches, epochs=5, steps_per_epoch=steps)
        ```

        Args:
            batch_size: samples in a batch; the last of an epoch may have fewer.
            seed: of the order, from 0 to 2**32 - 1; None: the samples' own order, in
                every epoch.
            epochs: how many times the data set goes over the samples; None: no end.
            start_step: number of batches to leave out, counted from the first of
                epoch 0.
            drop_remainder: whether the last batch of an epoch is left out if it has
                fewer samples.

        Returns:
            A `tf.data.Dataset` of pairs: a float32 `tf.SparseTensor`
            `[batch, features]` in canonical order, and the labels as an int32
            `tf.RaggedTensor` `[batch, None]`.
        """
        if seed is not None:
            check_seed(seed)
        _check_epochs(epochs)
        check_argument(
            "start_step",
            start_step,
            is_integer(start_step) and start_step >= 0,
            "a non-negative integer",
        )
        samples, steps = len(self), self.steps_per_epoch(batch_size, drop_remainder)
        if steps == 0:
            raise ValueError(
                "There is no batch: the number of samples is too small. "
                f"Received: {samples} samples, batch_size={batch_size}, "
                f"drop_remainder={drop_remainder}"
            )
        first_epoch, first_step = divmod(start_step, steps)
        batch = _batches_of(self, batch_size if drop_remainder else None)

        def order(epoch: np.ndarray) -> np.ndarray:
            return np.random.RandomState([seed or 0, int(epoch)]).permutation(samples)

        def steps_of(epoch: tf.Tensor) -> tf.data.Dataset:
            if seed is None:
                rows = tf.range(samples, dtype=tf.int64)
            else:
                rows = tf.numpy_function(order, [epoch], tf.int64, stateful=False)
            start = tf.where(epoch == first_epoch, first_step, 0)
            here = tf.data.Dataset.range(tf.cast(start, tf.int64), steps)
            return here.map(
                lambda step: rows[step * batch_size : (step + 1) * batch_size]
            )

        end = np.iinfo(np.int64).max if epochs is None else epochs
        batches = tf.data.Dataset.range(first_epoch, end).flat_map(steps_of).map(batch)
        left = (
            tf.data.INFINITE_CARDINALITY
            if epochs is None
            else max(0, epochs * steps - start_step)
        )
        batches = batches.apply(tf.data.experimental.assert_cardinality(left))
        return batches.prefetch(tf.data.AUTOTUNE)


def read_xc(
    path: Path, *, normalize: str | None = None, drop_unlabelled: bool = False
) -> XCData:
    """Reads a file of the Extreme Classification repository's format into memory.

    Features and labels of a point may come in any order; it is ascending afterwards.
    Empty lines after the last point are ignored.

    Args:
        path: the file, as text or compressed by gzip, whatever its name.
        normalize: `"l2"` to divide a sample's values by their Euclidean norm (a sample
            of zeros stays as it is), or None.
        drop_unlabelled: whether samples without labels are left out.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is malformed, with the number of the line and what was
            expected there: a header of three integers; as many lines as it says; ids
            that are integers in range, none twice in a line; finite values.
    """
    pieces = list(_read_pieces(path, normalize, drop_unlabelled))
    return _join(pieces)


def stream_xc(
    path: Path,
    batch_size: int,
    *,
    shuffle: int | None = None,
    seed: int = 0,
    epochs: int | None = 1,
    normalize: str | None = None,
    drop_unlabelled: bool = False,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Batches from a file that does not fit into memory, parsed while they are used.

    For a file that does fit, `read_xc(path).dataset(batch_size)` is faster, shuffles
    all samples and can start at any batch.

    Args:
        path, normalize, drop_unlabelled: as of `read_xc`.
        batch_size: samples in a batch; the last of an epoch may have fewer.
        shuffle: number of consecutive samples that are shuffled among each other,
            rounded up to full batches; None: the order of the file.
        seed: of the shuffling, from 0 to 2**32 - 1. It is another one in each epoch.
        epochs: how many times the file is read; None: no end.
        drop_remainder: whether the last batch of an epoch is left out if it has fewer
            samples.

    Returns:
        A `tf.data.Dataset` of pairs as of `XCData.dataset`.

    Raises:
        OSError, ValueError: as `read_xc`, at once for the header; while the data set
            is iterated, malformed lines become a `tf.errors.InvalidArgumentError` with
            the same text.
    """
    check_positive("batch_size", batch_size)
    if shuffle is not None:
        check_positive("shuffle", shuffle)
    check_seed(seed)
    _check_epochs(epochs)
    # The first piece of the file: errors at the top come now.
    empty = next(_read_pieces(path, normalize, drop_unlabelled)).take([])
    window_size = -(-(shuffle or _WINDOW) // batch_size) * batch_size

    def windows() -> Iterator[tuple[np.ndarray, ...]]:
        for epoch in itertools.count() if epochs is None else range(epochs):
            pieces = _read_pieces(path, normalize, drop_unlabelled)
            for number, window in enumerate(_windows(pieces, window_size)):
                if shuffle is not None:
                    random = np.random.RandomState([seed, epoch, number])
                    window = window.take(random.permutation(len(window)))
                yield _arrays(window)

    def batches_of(*arrays: tf.Tensor) -> tf.data.Dataset:
        samples = tf.size(arrays[0], tf.int64) - 1
        rows = tf.data.Dataset.range(samples)
        batch = functools.partial(
            _gather_batch,
            arrays,
            empty.features,
            batch_size if drop_remainder else None,
        )
        return rows.batch(batch_size, drop_remainder=drop_remainder).map(batch)

    signature = tuple(tf.TensorSpec([None], a.dtype) for a in _arrays(empty))
    batches = tf.data.Dataset.from_generator(windows, output_signature=signature)
    return batches.flat_map(batches_of).prefetch(tf.data.AUTOTUNE)


def write_xc(path: Path, data: XCData) -> None:
    """Writes a file of the Extreme Classification repository's format.

    `read_xc` gives the same data again, to the last bit. The file is there in whole or,
    after an error, not at all: one that was there before is replaced at the end.

    Args:
        path: the file; compressed by gzip if its name ends in `.gz`.
        data: samples of any number.

    Raises:
        OSError: if the file cannot be written.
    """
    path = os.fspath(path)
    directory, name = os.path.split(path)
    # In the same directory, hence on the same file system.
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=directory or ".") as where:
        scratch = os.path.join(where, name)
        with open(scratch, "wb") as raw, contextlib.ExitStack() as stack:
            file: Any = raw
            if name.endswith(".gz"):
                # No name and no time: equal data, equal files.
                file = stack.enter_context(
                    gzip.GzipFile("", "wb", 6, fileobj=raw, mtime=0)
                )
            file.write(f"{len(data)} {data.features} {data.labels}\n".encode("ascii"))
            for start in range(0, len(data), _WINDOW):
                file.write(_text_of(data, start, min(start + _WINDOW, len(data))))
            stack.close()
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(scratch, path)


# Arrays


def _arrays(data: XCData) -> tuple[np.ndarray, ...]:
    return (
        data.indptr,
        data.indices,
        data.values,
        data.label_indptr,
        data.label_indices,
    )


def _check_array(name: str, array: np.ndarray, valid: bool, expected: str) -> None:
    if not valid:
        raise ValueError(
            f"Received an invalid value for `{name}`, expected {expected}. "
            f"Received: shape={array.shape}, dtype={array.dtype}"
        )


def _check_rows(
    names: tuple[str, str],
    indptr: np.ndarray,
    indices: np.ndarray,
    width: int,
) -> None:
    """Raises ValueError unless the arrays are rows of ascending ids below `width`."""
    indptr_name, indices_name = names
    _check_array(
        indptr_name,
        indptr,
        indptr.size > 0
        and indptr[0] == 0
        and indptr[-1] == indices.size
        and bool((indptr[1:] >= indptr[:-1]).all()),
        f"ascending places in `{indices_name}`, the first 0 and the last its size",
    )
    ascending = indices[1:] > indices[:-1]
    starts = indptr[1:-1].astype(np.int64)
    # A row may start below the end of the one before it.
    ascending[starts[(starts > 0) & (starts < indices.size)] - 1] = True
    _check_array(
        indices_name,
        indices,
        indices.size == 0
        or (bool(ascending.all()) and indices.min() >= 0 and indices.max() < width),
        f"integers in [0, {width}), ascending and different within a sample",
    )


def _entries_of(
    indptr: np.ndarray, samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`(indptr, places)` of the entries of some samples."""
    sizes = indptr[samples + 1] - indptr[samples]
    taken = _indptr_of(sizes)
    places = np.arange(taken[-1]) + np.repeat(indptr[samples] - taken[:-1], sizes)
    return taken, places


def _indptr_of(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _join(pieces: list[XCData]) -> XCData:
    if len(pieces) == 1:
        return pieces[0]
    indptr, indices, values, label_indptr, label_indices = zip(
        *map(_arrays, pieces), strict=True
    )
    return XCData(
        pieces[0].features,
        pieces[0].labels,
        _indptr_of(np.concatenate([np.diff(each) for each in indptr])),
        np.concatenate(indices),
        np.concatenate(values),
        _indptr_of(np.concatenate([np.diff(each) for each in label_indptr])),
        np.concatenate(label_indices),
    )


def _windows(pieces: Iterable[XCData], size: int) -> Iterator[XCData]:
    """The samples of all pieces, `size` at a time; in the last one what is left."""
    pending: list[XCData] = []
    for piece in pieces:
        pending.append(piece)
        if sum(map(len, pending)) < size:
            continue
        joined = _join(pending)
        rest = len(joined) % size
        for start in range(0, len(joined) - rest, size):
            yield joined.take(np.arange(start, start + size))
        pending = [joined.take(np.arange(len(joined) - rest, len(joined)))]
    last = _join(pending)
    if len(last):
        yield last


def l2_normalized(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float32 values of rows divided by their Euclidean norms; zeros stay."""
    exact = values.astype(np.float64)
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    norms = np.sqrt(np.bincount(rows, exact * exact, minlength=len(indptr) - 1))
    norms[norms == 0] = 1
    return (exact / norms[rows]).astype(np.float32)


# Batches


def _check_epochs(epochs: Any) -> None:
    check_argument(
        "epochs",
        epochs,
        epochs is None or (is_integer(epochs) and epochs > 0),
        "a positive integer or None",
    )


def _batches_of(data: XCData, batch_size: int | None) -> Callable[[tf.Tensor], Any]:
    """A function from the numbers of samples to a batch of them."""
    arrays = tuple(map(tf.convert_to_tensor, _arrays(data)))
    return functools.partial(_gather_batch, arrays, data.features, batch_size)


def _gather_batch(
    arrays: tuple[tf.Tensor, ...],
    features: int,
    batch_size: int | None,
    rows: tf.Tensor,
) -> tuple[tf.SparseTensor, tf.RaggedTensor]:
    """A batch: the samples `rows`, of which there are `batch_size` if it is known."""
    indptr, indices, values, label_indptr, label_indices = arrays
    rows = tf.ensure_shape(rows, [batch_size])
    places = _places(indptr, rows)
    # Its indices are of sample and place in the sample. As fast as anything that was
    # tried in its place, such as `places.value_rowids()` or `tf.searchsorted`.
    sample = places.to_sparse().indices[:, 0]
    feature = tf.cast(tf.gather(indices, places.values), tf.int64)
    samples = tf.size(rows, tf.int64) if batch_size is None else batch_size
    inputs = tf.SparseTensor(
        tf.stack([sample, feature], axis=1),
        tf.gather(values, places.values),
        tf.stack([tf.cast(samples, tf.int64), features]),
    )
    places = _places(label_indptr, rows)
    return inputs, places.with_values(tf.gather(label_indices, places.values))


def _places(indptr: tf.Tensor, rows: tf.Tensor) -> tf.RaggedTensor:
    """The places of the entries of each of some samples."""
    return tf.ragged.range(tf.gather(indptr, rows), tf.gather(indptr, rows + 1))


# Text


def _text_of(data: XCData, start: int, end: int) -> bytes:
    """The lines of samples from `start` to `end`."""
    # Nine digits tell all float32 numbers apart.
    first, last = data.indptr[[start, end]]
    entries = [
        f"{feature}:{value:.9g}"
        for feature, value in zip(
            data.indices[first:last].tolist(),
            data.values[first:last].tolist(),
            strict=True,
        )
    ]
    first_label, last_label = data.label_indptr[[start, end]]
    labels = list(map(str, data.label_indices[first_label:last_label].tolist()))
    bounds = (data.indptr[start : end + 1] - first).tolist()
    label_bounds = (data.label_indptr[start : end + 1] - first_label).tolist()
    lines = [
        ",".join(labels[label_bounds[i] : label_bounds[i + 1]])
        + " "
        + " ".join(entries[bounds[i] : bounds[i + 1]])
        for i in range(end - start)
    ]
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def _read_pieces(
    path: Path, normalize: str | None, drop_unlabelled: bool
) -> Iterator[XCData]:
    """The samples of a file in pieces, the first of which may be empty."""
    if normalize is not None:
        check_choice("normalize", normalize, ("l2",))
    path = os.fspath(path)
    points, features, labels = 0, 0, 0
    line = 1  # The number of the next line.
    for text in _text_blocks(path):
        if line == 1:
            header, text = text.split(b"\n", 1)
            points, features, labels = _parse_header(header, path)
            line = 2
        text, surplus = _split_lines(text, points + 2 - line)
        extra = re.search(rb"[^\s]", surplus)
        if extra:
            number = points + 2 + surplus.count(b"\n", 0, extra.start())
            raise _malformed(
                path,
                number,
                "the end of the file after as many points as the header says, "
                f"{points}",
                surplus[extra.start() :].split(b"\n", 1)[0],
            )
        piece = _parse_plain(text, features, labels)
        if piece is None:
            piece = _parse_lines(text, features, labels, path, line)
        line += len(piece)
        if normalize is not None:
            values = l2_normalized(piece.indptr, piece.values)
            piece = dataclasses.replace(piece, values=values)
        if drop_unlabelled:
            piece = piece.take(np.flatnonzero(np.diff(piece.label_indptr)))
        yield piece
    if line == 1:
        raise ValueError(
            f"{path}, line 1: expected a header 'points features labels'. Received: an "
            "empty file"
        )
    if line < points + 2:
        raise ValueError(
            f"{path}, line {line}: expected as many points as the header says, "
            f"{points}. Received: the end of the file after {line - 2} points"
        )


def _text_blocks(path: str) -> Iterator[bytes]:
    """The text of a file in blocks of whole lines, each with a newline at its end."""
    with open(path, "rb") as raw:
        compressed = raw.peek(2)[:2] == b"\x1f\x8b"
        file: Any = gzip.GzipFile(fileobj=raw) if compressed else raw
        parts: list[bytes] = []
        size = lines = 0
        while True:
            try:
                part = file.read1(_BLOCK)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                lines += sum(each.count(b"\n") for each in parts)
                raise ValueError(
                    f"{path}, line {lines + 1}: expected more data compressed by gzip, "
                    f"the file is damaged or cut off. Received: {error}"
                ) from error
            parts.append(part)
            size += len(part)
            if part and size < _BLOCK:
                continue
            text = b"".join(parts)
            end = text.rfind(b"\n") + 1 if part else len(text)
            if end:
                block = text[:end]
                lines += block.count(b"\n")
                yield block if block.endswith(b"\n") else block + b"\n"
            if not part:
                return
            parts = [text[end:]]
            size = len(parts[0])


def _split_lines(text: bytes, count: int) -> tuple[bytes, bytes]:
    """The first `count` lines, and the rest."""
    if text.count(b"\n") <= count:
        return text, b""
    end = 0
    for _ in range(count):
        end = text.index(b"\n", end) + 1
    return text[:end], text[end:]


def _malformed(path: str, line: int, expected: str, received: bytes) -> ValueError:
    shown = received[:60].decode("ascii", "backslashreplace")
    more = "..." if len(received) > 60 else ""
    return ValueError(
        f"{path}, line {line}: expected {expected}. Received: {shown!r}{more}"
    )


def _parse_header(header: bytes, path: str) -> tuple[int, int, int]:
    # Some editors put a byte order mark at the beginning.
    fields = header.removeprefix(b"\xef\xbb\xbf").split()
    if len(fields) == 3 and all(re.fullmatch(rb"[0-9]{1,18}", f) for f in fields):
        points, features, labels = map(int, fields)
        if 0 < features <= _MAX_INT32 and 0 < labels <= _MAX_INT32:
            return points, features, labels
    raise _malformed(
        path,
        1,
        "a header 'points features labels' of three integers, the last two positive "
        f"and up to {_MAX_INT32}",
        header,
    )


def _parse_plain(text: bytes, features: int, labels: int) -> XCData | None:
    """What `_parse_lines` makes of the text, fast; None if anything in it is unusual.

    Args:
        text: whole lines.
    """
    text = text.replace(b"\r\n", b"\n").replace(b" \n", b"\n")
    data = np.frombuffer(text, np.uint8)
    classes = _CLASS_OF_BYTE[data]
    if (classes == _OTHER).any():
        return None
    # A token is what lies between two delimiters; these tell what it is.
    ends = np.flatnonzero(classes == _DELIMITER)
    starts = np.concatenate([[0], ends[:-1] + 1])
    after = data[ends]
    before = np.concatenate([[_NEWLINE], after[:-1]])[: len(after)]
    starts = starts[: len(ends)]
    line_starts = before == _NEWLINE
    line_ends = after == _NEWLINE
    filled = ends > starts
    is_feature = (before == _SPACE) & (after == _COLON) & filled
    is_value = (before == _COLON) & (line_ends | (after == _SPACE)) & filled
    is_label = (line_starts | (before == _COMMA)) & (after != _COLON) & filled
    no_labels = line_starts & (line_ends | (after == _SPACE)) & ~filled
    if not (is_feature | is_value | is_label | no_labels).all():
        return None

    def count(what: np.ndarray) -> np.ndarray:
        """Of the bytes of each token."""
        sums = np.concatenate([[0], np.cumsum(what, dtype=np.int32)])
        return sums[ends] - sums[starts]

    digits = count(classes == _DIGIT)
    sizes = ends - starts
    if ((digits < sizes) & ~is_value).any() or (sizes[~is_value] > 10).any():
        return None
    plain_value = (digits > 0) & (sizes - digits <= count(classes == _DOT))
    plain_value &= sizes - digits <= 1
    for token in np.flatnonzero(is_value & ~plain_value):
        if not _NUMBER.fullmatch(text[starts[token] : ends[token]]):
            return None

    numbers = np.zeros(len(ends))
    if filled.any():
        numbers[filled] = np.fromstring(text.translate(_TO_SPACES), sep=" ")
    points = int(line_starts.sum())
    line_of_token = np.cumsum(line_starts) - 1

    def rows(tokens: np.ndarray, width: int) -> Any:
        """`(indptr, indices, order)` of ids, or None if they are out of range."""
        ids, of_line = numbers[tokens].astype(np.int64), line_of_token[tokens]
        if ids.size and ids.max() >= width:
            return None
        keys = of_line * width + ids
        order = None
        if not (keys[1:] > keys[:-1]).all():
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            if not (keys[1:] > keys[:-1]).all():
                return None
            ids = ids[order]
        indptr = _indptr_of(np.bincount(of_line, minlength=points))
        return indptr, ids.astype(np.int32), order

    sparse, ragged = rows(is_feature, features), rows(is_label, labels)
    if sparse is None or ragged is None:
        return None
    indptr, indices, order = sparse
    with np.errstate(over="ignore"):
        values = numbers[is_value].astype(np.float32)
    if not np.isfinite(values).all():
        return None
    if order is not None:
        values = values[order]
    return XCData(features, labels, indptr, indices, values, *ragged[:2])


def _parse_lines(
    text: bytes, features: int, labels: int, path: str, first_line: int
) -> XCData:
    """The samples of whole lines, of which the first has the number `first_line`."""
    all_ids: list[int] = []
    all_values: list[float] = []
    all_labels: list[int] = []
    sizes, label_sizes = [], []
    for number, line in enumerate(text.split(b"\n")[:-1], first_line):
        malformed = functools.partial(_malformed, path, number)
        fields = line.split()
        label_fields: list[bytes] = []
        if fields and not line[:1].isspace():
            label_fields = fields.pop(0).split(b",")
        sample_labels = [_parse_label(each, labels, malformed) for each in label_fields]
        entries = dict[int, float]()
        for field in fields:
            feature, value = _parse_entry(field, features, malformed)
            if feature in entries:
                raise malformed("different features, this one comes twice", field)
            entries[feature] = value
        for label in sample_labels:
            if sample_labels.count(label) > 1:
                raise malformed(
                    "different labels, this one comes twice", str(label).encode()
                )
        order = sorted(entries)
        all_ids += order
        all_values += [entries[feature] for feature in order]
        all_labels += sorted(sample_labels)
        sizes.append(len(entries))
        label_sizes.append(len(sample_labels))
    return XCData(
        features,
        labels,
        _indptr_of(np.array(sizes, np.int64)),
        np.array(all_ids, np.int32),
        np.array(all_values, np.float32),
        _indptr_of(np.array(label_sizes, np.int64)),
        np.array(all_labels, np.int32),
    )


def _parse_label(
    field: bytes, labels: int, malformed: Callable[[str, bytes], ValueError]
) -> int:
    if not (re.fullmatch(rb"0*[0-9]{1,10}", field) and int(field) < labels):
        raise malformed(
            f"labels as integers in [0, {labels}) with commas between them (a line "
            "without labels starts with a space)",
            field,
        )
    return int(field)


def _parse_entry(
    field: bytes, features: int, malformed: Callable[[str, bytes], ValueError]
) -> tuple[int, float]:
    feature, colon, value = field.partition(b":")
    if not colon:
        raise malformed("'feature:value'", field)
    if not (re.fullmatch(rb"0*[0-9]{1,10}", feature) and int(feature) < features):
        raise malformed(
            f"'feature:value', the feature an integer in [0, {features})", field
        )
    with np.errstate(over="ignore"):
        number = np.float32(float(value) if _NUMBER.fullmatch(value) else np.nan)
    if not np.isfinite(number):
        raise malformed("'feature:value', the value a finite float32 number", field)
    return int(feature), float(number)
