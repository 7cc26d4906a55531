"""Deformed images: small affine maps and elastic distortions, with NumPy alone.

Random numbers come from `numpy.random.RandomState`, whose streams NumPy has frozen
(NEP 19), and images are interpolated in integers: a seed gives the same images under
every version of NumPy and on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1000
"""Images that are deformed at a time, from one stream of random numbers."""

# Elastic distortions: standard deviation of the Gaussian, in pixels, and factor of the
# smoothed field.
_SIGMA = 4.0
_ALPHA = 17.0
# Affine maps: each entry of the matrix is off by at most so much, and the translation
# is at most so many pixels.
_MATRIX = 0.1
_TRANSLATION = 1.0
# Displacements are rounded to this part of a pixel.
_STEPS = 256


def deform(images: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Deforms grey images, each in its own way, lightly enough to keep a digit's class.

    A pixel takes its value from a place displaced by the sum of

    * an elastic distortion as of Simard, Steinkraus & Platt 2003, "Best Practices for
      Convolutional Neural Networks Applied to Visual Document Analysis": two fields of
      uniform noise in (-1, 1), smoothed by a Gaussian with a standard deviation of 4
      pixels and multiplied by 17; 0.7 pixels then in either direction (root mean
      square), 0.4 in the corners. The factor is half of what they found best on MNIST:
      with theirs and the affine map, some digits can no longer be told;
    * an affine map about the centre: the identity with up to 0.1 added to or taken from
      each entry (rotation, shear and change of size in one), and a translation by up to
      1 pixel in either direction; all uniform.

    Values between pixels are interpolated bilinearly, those outside are 0.

    Args:
        images: uint8 `(count, height, width, 1)`, dark (0) outside.
        random: source of randomness.

    Returns:
        uint8 images of the same shape.
    """
    count, height, width = images.shape[:3]
    noise = random.random_sample((count, 2, height, width))
    affine = 2 * random.random_sample((count, 2, 3)) - 1
    # float64 up to the rounding to steps, so that different orders of summation, as on
    # different machines, give the same steps.
    field = _smoothing(height) @ (2 * noise - 1) @ _smoothing(width).T
    field *= _ALPHA
    rows = np.arange(height)[:, None] - (height - 1) / 2
    columns = np.arange(width)[None, :] - (width - 1) / 2
    matrix = _MATRIX * affine[..., None, None]
    field += matrix[:, :, 0] * rows + matrix[:, :, 1] * columns
    field += _TRANSLATION * affine[:, :, 2, None, None]
    steps = np.rint(_STEPS * field).astype(np.int32)
    return _displaced(images[..., 0], steps)[..., None]


def deformed_blocks(
    images: np.ndarray, labels: np.ndarray, count: int | None, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first `count` images of an endless set made from a finite one.

    Image `i` comes from `images[i % len(images)]`: the first `len(images)` are the
    images themselves, all others are deformed. It depends on `i`, `seed` and the given
    images, not on `count`.

    Args:
        images: uint8 `(any, height, width, 1)`, at least one.
        labels: `(any,)`.
        count: number of images; None: no end.
        seed: of the deformations, from 0 to 2**32 - 1.

    Yields:
        `(images, labels)` of at most 1000 consecutive images.
    """
    block = 0
    while count is None or block * BLOCK < count:
        index = block * BLOCK + np.arange(BLOCK)
        source = index % len(images)
        random = np.random.RandomState([seed, block & 0xFFFFFFFF, block >> 32])
        made = images[source]
        # Of a whole block, whether all of it is used or not.
        new = index >= len(images)
        if new.any():
            made[new] = deform(made, random)[new]
        end = BLOCK if count is None else min(BLOCK, count - block * BLOCK)
        yield made[:end], labels[source[:end]]
        block += 1


def _smoothing(side: int) -> np.ndarray:
    """The matrix that smooths a vector of `side` elements, with zeros outside it."""
    distance = np.arange(side)[:, None] - np.arange(side)[None, :]
    # Its sum over all integers is 1 but for 1e-30.
    kernel = np.exp(-(distance**2) / (2 * _SIGMA**2))
    return np.asarray(kernel / (_SIGMA * np.sqrt(2 * np.pi)))


def _displaced(images: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Images read at displaced places, interpolated bilinearly and rounded.

    Args:
        images: uint8 `(count, height, width)`.
        steps: int32 `(count, 2, height, width)`, displacements down and to the right,
            in 256ths of a pixel.
    """
    count, height, width = images.shape
    # A border of zeros, which all places outside are moved to.
    padded = np.zeros((count, height + 3, width + 3), np.uint8)
    padded[:, 1:-2, 1:-2] = images
    place = [
        np.clip(
            _STEPS * (1 + np.arange(side, dtype=np.int32)).reshape(shape) + moved,
            0,
            _STEPS * (side + 1),
        )
        for side, shape, moved in (
            (height, (-1, 1), steps[:, 0]),
            (width, (1, -1), steps[:, 1]),
        )
    ]
    (top, left), (down, right) = zip(
        *(np.divmod(each, _STEPS) for each in place), strict=True
    )
    first = np.arange(count)[:, None, None] * ((height + 3) * (width + 3))
    corner = first + top * (width + 3) + left
    values = padded.ravel()

    def row(offset: int) -> np.ndarray:
        near = values.take(corner + offset).astype(np.int32)
        far = values.take(corner + (offset + 1)).astype(np.int32)
        return _STEPS * near + right * (far - near)

    upper = row(0)
    sums = _STEPS * upper + down * (row(width + 3) - upper)
    return ((sums + _STEPS**2 // 2) // _STEPS**2).astype(np.uint8)
