"""Image classification sets as NumPy arrays, ready for `fit`."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import urllib.error
import urllib.request
from typing import Any

import numpy as np

# Builders of this package, by the name that TFDS derives from the class.
_BUILDERS = {
    "convex": "keras_lsh.datasets.convex",
    "rectangles": "keras_lsh.datasets.rectangles",
}
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
    `"rectangles/small"`) and `"convex"` (also `"convex/small"`). Any other name is
    one of TFDS' own, such as `"mnist"` or `"fashion_mnist"`.

    Example:

    ```python
    (x_train, y_train), (x_test, y_test), info = keras_lsh.datasets.load(
        "rectangles", flatten=True
    )
    classes = info.features["label"].num_classes
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
    tfds = _import_tfds()
    builder = _find_builder(tfds, name, data_dir)
    _check_features(tfds, name, builder.info)
    if not builder.is_prepared():
        _prepare(name, builder, data_dir, download)
    splits = builder.info.splits
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise ValueError(
            f"The data set {name!r} needs splits named 'train' and 'test' (or "
            f"'validation'). Received splits: {sorted(splits)}"
        )
    train_arrays = _read(builder, "train", flatten)
    return train_arrays, _read(builder, test, flatten), builder.info


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
    if base in _BUILDERS:
        importlib.import_module(_BUILDERS[base])
    if data_dir is not None:
        data_dir = os.path.expanduser(data_dir)
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
    examples = builder.as_dataset(
        split=split, batch_size=-1, shuffle_files=False, as_supervised=True
    )
    images, labels = (array.numpy() for array in examples)
    brightest = np.iinfo(images.dtype).max if images.dtype.kind == "u" else 1
    images = images.astype(np.float32)
    images /= brightest
    if flatten:
        images = images.reshape(len(images), -1)
    return images, labels.astype(np.int64)
