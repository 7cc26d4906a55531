"""Selection by a sketch of the neurons: a bit for each dimension."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh._arguments import check_argument
from keras_lsh.ops import reference
from keras_lsh.ops._checks import MAX_FEATURES
from keras_lsh.selection.exact import largest_or_forced
from keras_lsh.selection.selector import Selector, WeightFactory

# A group of four signs is looked up at once, and four groups go together.
_LEAST_FEATURES = 16


class SketchSelector(Selector):
    """The neurons of the largest products, as far as the signs of their weights tell.

    The weights of a neuron, less those of the mean neuron, are rotated pseudo-randomly,
    and their signs kept, with the scale by which these come nearest to the weights. The
    product with an input, which keeps its numbers, is then about
    `scale * sum(signs * rotated input) + bias`, but for a part that all neurons have in
    common. All neurons are ranked so, at an eighth of a byte for each element. Better
    than buckets where neurons have few near neighbours; it takes time in proportion to
    their number.

    Source: Charikar 2002, "Similarity Estimation Techniques from Rounding Algorithms"
    (signs); Dong, Charikar & Li 2008, "Asymmetric Distance Estimation with Sketches for
    Similarity Search in High-Dimensional Spaces" (inputs as they are); Gao & Long 2024,
    "RaBitQ", section 3 (the mean, the rotation, the scale); André, Kermarrec & Le
    Scouarnec 2015, "Cache Locality Is Not Enough" (the search through the codes).

    Args:
        seed: Integer, seed of the rotation.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def build(self, add_weight: WeightFactory, units: int, input_dim: int) -> None:
        super().build(add_weight, units, input_dim)
        features = _features(input_dim)
        both = np.array([-1, 1], np.float32)
        signs = np.random.default_rng(self.seed).choice(both, [3, features])
        codes = np.zeros([-(-units // 32), features // 4, 16], np.uint8)
        self.signs = add_weight("sketch_signs", signs)
        self.codes = add_weight("sketch_codes", codes)
        self.scales = add_weight("sketch_scales", np.zeros([units], np.float32))

    def select(
        self, inputs: tf.Tensor, kernel: Any, bias: Any, count: int, forced: Any = None
    ) -> Any:
        """The `count` largest scores, ties to the smaller id."""
        if forced is not None:
            scores = self.scores(inputs, kernel, bias)
            return largest_or_forced(scores, count, forced)
        rotated = ops.rotate(inputs, self.signs)
        return ops.select_by_sketch(rotated, self.codes, self.scales, bias, count)

    def scores(self, inputs: tf.Tensor, kernel: Any, bias: Any) -> tf.Tensor:
        """float32: the products as the sketch tells them, less the mean neuron's."""
        del kernel
        rotated = ops.rotate(inputs, self.signs)
        return reference.sketch_scores(rotated, self.codes, self.scales, bias)

    def entries_read(self, inputs: tf.Tensor) -> tf.Tensor:
        """int32 `[batch]`: signs and scales of all neurons, in numbers of 4 bytes."""
        each = self.signs.shape[1] // 32 + 1
        return tf.fill([tf.shape(inputs)[0]], self.units * each)

    def refresh(
        self, kernel: Any, bias: Any, moved_only: Any = False
    ) -> dict[str, tf.Tensor]:
        """Sketches all neurons again.

        Returns:
            `codes_changed`: the share of neurons with another sign.
        """
        del bias, moved_only
        codes, scales = ops.sign_sketch(kernel, self.signs)
        changed = tf.bitwise.bitwise_xor(codes, tf.convert_to_tensor(self.codes))
        # Of two neurons to a byte.
        moved = sum(
            tf.math.count_nonzero(tf.reduce_any(part != 0, axis=1))
            for part in (changed % 16, changed // 16)
        )
        self.codes.assign(codes)
        self.scales.assign(scales)
        return {"codes_changed": tf.cast(moved, tf.float32) / self.units}

    def multiplications(self, input_dim: int) -> int:
        """Additions of the rotation, look-ups and two products a neuron."""
        features = _features(input_dim)
        return _rotation(features) + self.units * (features // 4 + 2)

    def numbers_read(self, input_dim: int) -> int:
        return 3 * _features(input_dim)

    def refresh_multiplications(self, input_dim: int) -> int:
        return self.units * _rotation(_features(input_dim))


def _features(input_dim: int) -> int:
    """Elements of a rotated vector."""
    expected = f"at most {MAX_FEATURES} with a sketch"
    check_argument("input_dim", input_dim, input_dim <= MAX_FEATURES, expected)
    return max(_LEAST_FEATURES, 1 << (input_dim - 1).bit_length())


def _rotation(features: int) -> int:
    return 3 * features * int(math.log2(features))
