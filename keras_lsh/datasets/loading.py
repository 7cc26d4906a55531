"""Image classification sets, ready for `fit`: as NumPy arrays, or as a stream."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh._arguments import check_argument, is_integer
from keras_lsh.datasets.deforming import deformed_blocks

# Builders of this package, by the name that TFDS derives from the class.
_BUILDERS = {
    "convex": "keras_lsh.datasets.convex",
    "mnist8m": "keras_lsh.datasets.mnist8m",
    "rectangles": "keras_lsh.datasets.rectangles",
}
# What they are made from.
_SOURCES = {"mnist8m": "mnist"}
_INSTALL = 'pip install "keras_lsh[datasets]"'
# How long the server of a data set may take to say anything, in seconds.
_PATIENCE = 5

Arrays = tuple[np.ndarray, np.ndarray]


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    flatten: bool = False,
    download: bool = True,
) -> tuple[Arrays, Arrays, Any]:
    """Loads an image classification set of TensorFlow Datasets (TFDS) into memory.

    The sets that come with this package are generated the first time, with no
    network: `"rectangles"` (also `"rectangles/larochelle2007"`,
    `"rectangles/small"`) and `"convex"` (also `"convex/small"`); `"mnist8m"` is made
    from MNIST (`"mnist8m/small"` and `"mnist8m/480k"`, or any number of training images
    as in `"mnist8m/250000"`; all 8.1 million of them would take 25 GB of memory, see
    `deformed_mnist`). Any other name is one of TFDS' own, such as `"mnist"` or
    `"fashion_mnist"`.

    Of `"smallnorb"`, pairs of stereo images of 96x96 pixels, an image here is
    `(32, 32, 2)`, left and right view in one, each pixel the mean of 3x3; flattened it
    has the 2048 features, and the set the 24,300 images to train on and 24,300 to test
    on, of the NORB of Spring & Shrivastava (KDD 2017). How theirs was made smaller, the
    paper does not say.

    Example:

    ```python
    (x_train, y_train), (x_test, y_test), info = keras_lsh.datasets.load(
        "rectangles", flatten=True
    )
    classes = info.features[info.supervised_keys[1]].num_classes
    ```

    Args:
        name: `"name"`, `"name/config"` or `"name/config:version"`, as in `tfds.load`.
        data_dir: directory of prepared data sets; TFDS' default if None, which is
            `~/tensorflow_datasets` or the environment variable `TFDS_DATA_DIR`.
        flatten: whether an image becomes a row of numbers.
        download: whether a set that is not in `data_dir` may be downloaded into it.

    Returns:
        `((x_train, y_train), (x_test, y_test), info)`: images as float32 in [0, 1],
        `(examples, height, width, channels)` or, flattened, `(examples, height *
        width * channels)`; labels as int64 `(examples,)`; the set's
        `tfds.core.DatasetInfo`. Where there is no split named `test`, `validation`
        takes its place.

    Raises:
        ImportError: if `tensorflow_datasets` is missing.
        ValueError: if the name is unknown, or the set is not one of labelled images
            of one size.
        FileNotFoundError: if the set is not in `data_dir` and `download` is False.
        ConnectionError: if it is not in `data_dir` and its server does not answer.
        OSError: if it can be neither downloaded nor written.
    """
    builder = prepared(name, data_dir, download)
    splits = builder.info.splits
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise ValueError(
            f"The data set {name!r} needs splits named 'train' and 'test' (or "
            f"'validation'). Received splits: {sorted(splits)}"
        )
    train_arrays = _read(builder, "train", flatten)
    return train_arrays, _read(builder, test, flatten), builder.info


def deformed_mnist(
    count: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    flatten: bool = False,
    download: bool = True,
) -> tf.data.Dataset:
    """The training images of `MNIST8M`, made while they are used, not stored.

    The images are those of the builder, in the same order: MNIST's own first, then
    deformed ones. Only MNIST itself needs room, on disk and in memory.
    To deform an image takes about 0.1 ms of a processor core.

    Example:

    ```python
    train = keras_lsh.datasets.deformed_mnist(8_100_000, flatten=True)
    train = train.shuffle(10_000).batch(128).prefetch(tf.data.AUTOTUNE)
    _, (x_test, y_test), _ = keras_lsh.datasets.load("mnist", flatten=True)
    ```

    Args:
        count: number of images, a positive integer; None: no end.
        data_dir: directory with MNIST as TFDS prepares it, as for `load`.
        seed: of the deformations, from 0 to 2**32 - 1.
        flatten: whether an image becomes a row of numbers.
        download: whether MNIST may be downloaded into `data_dir` if it is not there.

    Returns:
        A `tf.data.Dataset` of pairs `(image, label)`: float32 in [0, 1], `(28, 28, 1)`
        or, flattened, `(784,)`; int64 `()`.

    Raises:
        ValueError: if `count` or `seed` is out of range.
        ImportError, FileNotFoundError, ConnectionError, OSError: as `load`, of MNIST.
    """
    check_argument(
        "count",
        count,
        count is None or (is_integer(count) and count > 0),
        "a positive integer or None",
    )
    check_argument(
        "seed",
        seed,
        is_integer(seed) and 0 <= seed < 2**32,
        "an integer from 0 to 2**32 - 1",
    )
    images, labels = read(prepared("mnist", data_dir, download), "train")

    def blocks() -> Iterator[Arrays]:
        for made, their_labels in deformed_blocks(images, labels, count, seed):
            yield _as_inputs(made, flatten), their_labels

    shape = (images[0].size,) if flatten else images.shape[1:]
    examples = tf.data.Dataset.from_generator(
        blocks,
        output_signature=(
            tf.TensorSpec((None, *shape), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        ),
    ).unbatch()
    cardinality = tf.data.INFINITE_CARDINALITY if count is None else count
    return examples.apply(tf.data.experimental.assert_cardinality(cardinality))


def prepared(
    name: str, data_dir: str | os.PathLike[str] | None = None, download: bool = True
) -> Any:
    """The builder of a prepared set, with the arguments and errors of `load`."""
    tfds = _import_tfds()
    builder = _find_builder(tfds, name, data_dir)
    _check_features(tfds, name, builder.info)
    if not builder.is_prepared():
        _prepare(name, builder, data_dir, download)
    return builder


def read(builder: Any, split: str) -> Arrays:
    """A split's images as they are stored, and its labels as int64."""
    examples = builder.as_dataset(
        split=split, batch_size=-1, shuffle_files=False, as_supervised=True
    )
    images, labels = (array.numpy() for array in examples)
    return images, labels.astype(np.int64)


def _import_tfds() -> Any:
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise ImportError(
            "keras_lsh.datasets.load needs the package tensorflow_datasets. "
            f"Install it with: {_INSTALL}"
        ) from error


def _find_builder(tfds: Any, name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    if not isinstance(name, str) or not name:
        raise ValueError(
            "Received an invalid value for `name`, expected the name of a data set "
            f"such as 'rectangles' or 'mnist'. Received: name={name!r}"
        )
    base = re.split("[/:]", name)[0]
    module = importlib.import_module(_BUILDERS[base]) if base in _BUILDERS else None
    if data_dir is not None:
        data_dir = os.path.expanduser(data_dir)
    if module and re.fullmatch("mnist8m/[1-9][0-9]*", name):
        config = module.MNIST8M.sized(int(name.split("/")[1]))
        return module.MNIST8M(data_dir=data_dir, config=config)
    try:
        return tfds.builder(name, data_dir=data_dir)
    # TFDS raises an AssertionError for an unknown version.
    except (ValueError, AssertionError) as error:
        known = sorted({*_BUILDERS, *tfds.list_builders(with_community_datasets=False)})
        if base not in known:
            close = difflib.get_close_matches(base, known) or sorted(_BUILDERS)
            reason = f"no data set has this name; near it: {', '.join(close)}"
        else:
            configs = list(tfds.builder_cls(base).builder_configs)
            reason = (
                f"no such config or version; configs: {', '.join(configs) or 'none'}"
            )
        raise ValueError(
            "Received an invalid value for `name`, expected the name of a data set of "
            f"TensorFlow Datasets or of keras_lsh. Received: name={name!r} ({reason})"
        ) from error


def _check_features(tfds: Any, name: str, info: Any) -> None:
    """Raises ValueError unless the set is one of labelled images of one size."""
    keys = info.supervised_keys
    if keys and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = (info.features[key] for key in keys)
        if (
            isinstance(image, tfds.features.Image)
            and isinstance(label, tfds.features.ClassLabel)
            and None not in image.shape
        ):
            return
    features = re.sub(r"\s+", " ", repr(info.features))
    raise ValueError(
        "Received an invalid value for `name`, expected a data set of images of one "
        f"size, each with one label. Received: name={name!r} with features {features}"
    )


def _prepare(
    name: str, builder: Any, data_dir: str | os.PathLike[str] | None, download: bool
) -> None:
    """Generates or downloads a set, failing at once where TFDS would try for long."""
    where = f"{os.fspath(builder.data_dir)} (data_dir={data_dir!r})"
    generated = builder.name in _BUILDERS
    remedy = (
        "give the directory that holds it as `data_dir`, or download it first where "
        "there is a network"
    )
    if not generated and not download:
        raise FileNotFoundError(
            f"The data set {name!r} is not in {where}. Either allow `download`, or "
            f"{remedy}."
        )
    if builder.name in _SOURCES:
        source = _SOURCES[builder.name]
        try:
            prepared(source, data_dir, download)
        except OSError as error:
            raise type(error)(
                f"The data set {name!r} is made from {source!r}. {error}"
            ) from error
    try:
        if not generated:
            _check_server(name, builder, where, remedy)
        builder.download_and_prepare()
    except ImportError as error:
        # TFDS 4.9.10 uses importlib_resources without declaring it.
        raise ImportError(
            f"TFDS needs the package {error.name} to prepare a data set. Install it "
            f"with: {_INSTALL}"
        ) from error
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(
            f"Could not prepare the data set {name!r} in {where}: {error}"
        ) from error


def _check_server(name: str, builder: Any, where: str, remedy: str) -> None:
    """Raises ConnectionError unless the server of the set says anything at all.

    TFDS retries a download for more than three minutes before it gives up.
    """
    url = next(iter(builder.url_infos or ()), None)
    if url is None or not url.startswith("http"):
        return
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE):
            pass
    except urllib.error.HTTPError:
        pass  # An answer; TFDS will say what is wrong, if anything is.
    except OSError as error:
        raise ConnectionError(
            f"The data set {name!r} is not in {where}, and {url} does not answer "
            f"({error}). Without a network, {remedy}."
        ) from error


def _read(builder: Any, split: str, flatten: bool) -> Arrays:
    if builder.name == "smallnorb":
        examples = builder.as_dataset(split=split, shuffle_files=False)
        count = builder.info.splits[split].num_examples
        batch = examples.map(_stereo_pair).batch(count).get_single_element()
        images, labels = (array.numpy() for array in batch)
    else:
        images, labels = read(builder, split)
    return _as_inputs(images, flatten), labels


def _stereo_pair(example: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """`(32, 32, 2)` in [0, 1], and the label, of an example of `smallnorb`."""
    pair = tf.concat([example["image"], example["image2"]], axis=-1)
    pixels = tf.reshape(tf.cast(pair, tf.float32), [32, 3, 32, 3, 2])
    return tf.reduce_sum(pixels, axis=[1, 3]) / (9 * 255), example["label_category"]


def _as_inputs(images: np.ndarray, flatten: bool) -> np.ndarray:
    """float32 in [0, 1], in rows if `flatten`."""
    brightest = np.iinfo(images.dtype).max if images.dtype.kind == "u" else 1
    images = images.astype(np.float32)
    images /= brightest
    return images.reshape(len(images), -1) if flatten else images
