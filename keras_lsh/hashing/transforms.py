"""Asymmetric transforms: maximum inner product search as near-neighbour search.

Neurons have different norms, so the neuron with the largest inner product is not the
one with the smallest angle. These transforms append coordinates to neurons (`P`) and to
inputs (`Q`) such that similarity of `P(w)` and `Q(x)` grows with `w . x` alone, or
nearly so. Here `w` is scaled such that the largest neuron has norm `scale`, and `x` to
unit length; neither changes an input's order of neurons.
"""

import abc
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh.hashing._config import Config, integer


class Transform(Config, abc.ABC):
    """Coordinates to append to neurons and inputs before they are hashed.

    Attributes:
        extra_dims: Number of appended coordinates.
        scale: Norm that the largest neuron is scaled to, at most 1.
    """

    extra_dims: int
    scale: float

    @abc.abstractmethod
    def neuron_coordinates(self, squared_norms: tf.Tensor) -> tf.Tensor:
        """float32 `[n, extra_dims]`, the neurons' coordinates.

        Args:
            squared_norms: float32 `[n]`, of the scaled neurons, at most `scale**2`.
        """

    @abc.abstractmethod
    def input_coordinates(self) -> np.ndarray:
        """float32 `[extra_dims]`, the same for all inputs, which have unit length."""


@keras.saving.register_keras_serializable("keras_lsh")
class SimpleLSH(Transform):
    """The transform of Simple-LSH.

    `P(w) = [w; sqrt(1 - |w|^2)]`, `Q(x) = [x; 0]`, both of unit length, so that the
    cosine of the two is `w . x`. Neyshabur & Srebro 2015, "On Symmetric and Asymmetric
    LSHs for Inner Product Search", section 4 (Simple-LSH for normalised queries).
    """

    extra_dims = 1
    scale = 1.0

    def neuron_coordinates(self, squared_norms: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(tf.maximum(1.0 - squared_norms, 0.0))[:, tf.newaxis]

    def input_coordinates(self) -> np.ndarray:
        return np.zeros([1], np.float32)

    def get_config(self) -> dict[str, Any]:
        return {}


class _Powers(Transform):
    """Appends m functions of |w|^2, |w|^4, ..., |w|^(2^m)."""

    def __init__(self, m: int, scale: float):
        if not 0 < scale < 1:
            raise ValueError(
                "Received an invalid value for `scale`, expected a number between 0 "
                f"and 1. Received: scale={scale}"
            )
        self.m = self.extra_dims = integer("m", m, 1, 10)
        self.scale = float(scale)

    def _powers(self, squared_norms: tf.Tensor) -> tf.Tensor:
        powers = [squared_norms]
        while len(powers) < self.m:
            powers.append(powers[-1] * powers[-1])
        return tf.stack(powers, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"m": self.m, "scale": self.scale}


@keras.saving.register_keras_serializable("keras_lsh")
class SignALSH(_Powers):
    """The transform of Sign-ALSH, made for signs of random projections.

    `P(w) = [w; 1/2 - |w|^2; 1/2 - |w|^4; ...; 1/2 - |w|^(2^m)]` and
    `Q(x) = [x; 0; ...; 0]`. Then `|P(w)|^2 = m/4 + |w|^(2^(m+1))`, and the last term
    vanishes quickly, so the cosine of the two is nearly `w . x / sqrt(m/4)`.
    Shrivastava & Li 2015, "Improved Asymmetric Locality Sensitive Hashing (ALSH) for
    Maximum Inner Product Search (MIPS)", "From MIPS to Correlation-NNS"; the default
    values are the paper's.

    Args:
        m: Number of appended coordinates.
        scale: Norm of the largest neuron (the paper's `U`), between 0 and 1.
    """

    def __init__(self, m: int = 2, scale: float = 0.75):
        super().__init__(m, scale)

    def neuron_coordinates(self, squared_norms: tf.Tensor) -> tf.Tensor:
        return 0.5 - self._powers(squared_norms)

    def input_coordinates(self) -> np.ndarray:
        return np.zeros([self.m], np.float32)


@keras.saving.register_keras_serializable("keras_lsh")
class L2ALSH(_Powers):
    """The transform of L2-ALSH, made for hashes of the Euclidean distance.

    `P(w) = [w; |w|^2; |w|^4; ...; |w|^(2^m)]`, `Q(x) = [x; 1/2; ...; 1/2]`. Then
    `|P(w) - Q(x)|^2 = 1 + m/4 - 2 w . x + |w|^(2^(m+1))`, and the last term vanishes
    quickly. Shrivastava & Li 2014, "Asymmetric LSH (ALSH) for Sublinear Time Maximum
    Inner Product Search (MIPS)", "From MIPS to Near Neighbor Search"; the default
    values are the paper's.

    The guarantee is about distances. `SimHash` sees the angle between `P(w)` and `Q(x)`
    instead, which the guarantee does not cover.

    Args:
        m: Number of appended coordinates.
        scale: Norm of the largest neuron (the paper's `U`), between 0 and 1.
    """

    def __init__(self, m: int = 3, scale: float = 0.83):
        super().__init__(m, scale)

    def neuron_coordinates(self, squared_norms: tf.Tensor) -> tf.Tensor:
        return self._powers(squared_norms)

    def input_coordinates(self) -> np.ndarray:
        return np.full([self.m], 0.5, np.float32)


_BY_NAME = {"simple_lsh": SimpleLSH, "sign_alsh": SignALSH, "l2_alsh": L2ALSH}


def get_transform(identifier: Any) -> Transform | None:
    """A transform from itself, its name, or its serialised form; None for none."""
    if isinstance(identifier, str) and identifier in _BY_NAME:
        return _BY_NAME[identifier]()
    transform = identifier
    if isinstance(identifier, dict):
        transform = keras.saving.deserialize_keras_object(identifier)
    if transform is None or isinstance(transform, Transform):
        return transform
    raise ValueError(
        "Received an invalid value for `transform`, expected None, a `Transform`, or "
        f"one of {sorted(_BY_NAME)}. Received: transform={identifier}"
    )
