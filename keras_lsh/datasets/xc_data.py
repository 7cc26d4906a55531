"""Sets with sparse features and any number of labels a sample, in memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh._arguments import check_argument, is_integer
from keras_lsh.datasets._prefetch import made_ahead
from keras_lsh.datasets._random import check_positive, check_seed

MAX_INT32 = 2**31 - 1


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
        check_epochs(epochs)
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
        return made_ahead(batches)


def arrays_of(data: XCData) -> tuple[np.ndarray, ...]:
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
    taken = indptr_of(sizes)
    places = np.arange(taken[-1]) + np.repeat(indptr[samples] - taken[:-1], sizes)
    return taken, places


def indptr_of(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def join(pieces: list[XCData]) -> XCData:
    if len(pieces) == 1:
        return pieces[0]
    indptr, indices, values, label_indptr, label_indices = zip(
        *map(arrays_of, pieces), strict=True
    )
    return XCData(
        pieces[0].features,
        pieces[0].labels,
        indptr_of(np.concatenate([np.diff(each) for each in indptr])),
        np.concatenate(indices),
        np.concatenate(values),
        indptr_of(np.concatenate([np.diff(each) for each in label_indptr])),
        np.concatenate(label_indices),
    )


def windows_of(pieces: Iterable[XCData], size: int) -> Iterator[XCData]:
    """The samples of all pieces, `size` at a time; in the last one what is left."""
    pending: list[XCData] = []
    for piece in pieces:
        pending.append(piece)
        if sum(map(len, pending)) < size:
            continue
        joined = join(pending)
        rest = len(joined) % size
        for start in range(0, len(joined) - rest, size):
            yield joined.take(np.arange(start, start + size))
        pending = [joined.take(np.arange(len(joined) - rest, len(joined)))]
    last = join(pending)
    if len(last):
        yield last


def l2_normalized(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float32 values of rows divided by their Euclidean norms; zeros stay."""
    exact = values.astype(np.float64)
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    norms = np.sqrt(np.bincount(rows, exact * exact, minlength=len(indptr) - 1))
    norms[norms == 0] = 1
    return (exact / norms[rows]).astype(np.float32)


def check_epochs(epochs: Any) -> None:
    check_argument(
        "epochs",
        epochs,
        epochs is None or (is_integer(epochs) and epochs > 0),
        "a positive integer or None",
    )


def _batches_of(data: XCData, batch_size: int | None) -> Callable[[tf.Tensor], Any]:
    """A function from the numbers of samples to a batch of them."""
    arrays = tuple(map(tf.convert_to_tensor, arrays_of(data)))
    return functools.partial(gather_batch, arrays, data.features, batch_size)


def gather_batch(
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
