"""Random numbers of generated sets and of orders of samples.

They come from `numpy.random.RandomState`, whose streams NumPy has frozen (NEP 19), and
become ids through integers only: a seed gives the same data under every version of
NumPy and on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_lsh._arguments import check_argument, is_integer

# The weight of the most frequent item of a power law. The sum of the weights of 2**22
# items is in the range of int64 then.
_UNIT = 2.0**40


def check_seed(seed: Any) -> None:
    check_argument(
        "seed",
        seed,
        is_integer(seed) and 0 <= seed < 2**32,
        "an integer from 0 to 2**32 - 1",
    )


def check_positive(name: str, value: Any) -> None:
    check_argument(name, value, is_integer(value) and value > 0, "a positive integer")


class PowerLaw:
    """Draws item `i` of `count` with a probability in proportion to (i+1)^-exponent."""

    def __init__(self, count: int, exponent: float) -> None:
        weights = _UNIT * np.arange(1, count + 1, dtype=np.float64) ** -exponent
        # Powers may differ in their last bits from machine to machine.
        self._ends = np.cumsum(np.rint(weights).astype(np.int64))

    @property
    def probabilities(self) -> np.ndarray:
        """float64 `(count,)`, of each item."""
        return np.diff(self._ends, prepend=0) / self._ends[-1]

    def draw(self, size: Any, random: np.random.RandomState) -> np.ndarray:
        """Returns int64 items, independent of each other, in the shape `size`."""
        places = random.randint(0, self._ends[-1], size=size, dtype=np.int64)
        return np.searchsorted(self._ends, places, side="right")
