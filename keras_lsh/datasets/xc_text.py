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
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh._arguments import check_choice
from keras_lsh.datasets._prefetch import made_ahead
from keras_lsh.datasets._random import check_positive, check_seed
from keras_lsh.datasets.xc_data import (
    MAX_INT32,
    XCData,
    arrays_of,
    check_epochs,
    gather_batch,
    indptr_of,
    join,
    l2_normalized,
    windows_of,
)

Path = str | os.PathLike[str]

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
    return join(pieces)


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
    check_epochs(epochs)
    # The first piece of the file: errors at the top come now.
    empty = next(_read_pieces(path, normalize, drop_unlabelled)).take([])
    window_size = -(-(shuffle or _WINDOW) // batch_size) * batch_size

    def windows() -> Iterator[tuple[np.ndarray, ...]]:
        for epoch in itertools.count() if epochs is None else range(epochs):
            pieces = _read_pieces(path, normalize, drop_unlabelled)
            for number, window in enumerate(windows_of(pieces, window_size)):
                if shuffle is not None:
                    random = np.random.RandomState([seed, epoch, number])
                    window = window.take(random.permutation(len(window)))
                yield arrays_of(window)

    def batches_of(*arrays: tf.Tensor) -> tf.data.Dataset:
        samples = tf.size(arrays[0], tf.int64) - 1
        rows = tf.data.Dataset.range(samples)
        batch = functools.partial(
            gather_batch,
            arrays,
            empty.features,
            batch_size if drop_remainder else None,
        )
        return rows.batch(batch_size, drop_remainder=drop_remainder).map(batch)

    signature = tuple(tf.TensorSpec([None], a.dtype) for a in arrays_of(empty))
    batches = tf.data.Dataset.from_generator(windows, output_signature=signature)
    return made_ahead(batches.flat_map(batches_of))


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
        if 0 < features <= MAX_INT32 and 0 < labels <= MAX_INT32:
            return points, features, labels
    raise _malformed(
        path,
        1,
        "a header 'points features labels' of three integers, the last two positive "
        f"and up to {MAX_INT32}",
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
        indptr = indptr_of(np.bincount(of_line, minlength=points))
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
        indptr_of(np.array(sizes, np.int64)),
        np.array(all_ids, np.int32),
        np.array(all_values, np.float32),
        indptr_of(np.array(label_sizes, np.int64)),
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
