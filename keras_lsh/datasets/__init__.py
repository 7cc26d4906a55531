"""Data sets: images, extreme classification, and words.

* Images: builders for TensorFlow Datasets (TFDS), and a loader into memory.
* Extreme classification: `read_xc` and `stream_xc` for the text format of its
  repository, `synthetic_xc` for sets of any size.
* Words: `Vocabulary`, `SkipGrams`, and `synthetic_words` where there is no text.

TFDS is an extra, `pip install "keras_lsh[datasets]"`, and is imported when a set is
loaded or a builder is asked for, not before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_lsh.datasets.deforming import deform
from keras_lsh.datasets.drawing import draw_convex, draw_rectangles
from keras_lsh.datasets.loading import deformed_mnist, load
from keras_lsh.datasets.synthetic import synthetic_xc
from keras_lsh.datasets.words import (
    SkipGrams,
    Vocabulary,
    read_words,
    synthetic_words,
)
from keras_lsh.datasets.xc_data import XCData
from keras_lsh.datasets.xc_text import read_xc, stream_xc, write_xc

if TYPE_CHECKING:
    from keras_lsh.datasets.convex import Convex
    from keras_lsh.datasets.mnist8m import MNIST8M
    from keras_lsh.datasets.rectangles import Rectangles

__all__ = [
    "MNIST8M",
    "Convex",
    "Rectangles",
    "SkipGrams",
    "Vocabulary",
    "XCData",
    "deform",
    "deformed_mnist",
    "draw_convex",
    "draw_rectangles",
    "load",
    "read_words",
    "read_xc",
    "stream_xc",
    "synthetic_words",
    "synthetic_xc",
    "write_xc",
]

_LAZY = {
    "Convex": "keras_lsh.datasets.convex",
    "MNIST8M": "keras_lsh.datasets.mnist8m",
    "Rectangles": "keras_lsh.datasets.rectangles",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
