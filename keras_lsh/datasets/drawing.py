"""The images of `Rectangles` and `Convex`, drawn with NumPy alone.

Random numbers come from `numpy.random.RandomState`, whose streams NumPy has frozen
(NEP 19): a seed gives the same images under every version of NumPy.
"""

from __future__ import annotations

import numpy as np

SIDE = 28
"""Height and width of an image, in pixels."""


def draw_rectangles(
    count: int, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draws outlines of rectangles, half of them tall on average.

    As Larochelle et al. (2007), section 3.2, describe their `rectangles` task: pixels
    on the border of the rectangle are 255, all others 0; height and width are
    uniform, but a pair that differs by less than 3 pixels is drawn again; the top
    left corner is uniform among the places where the whole rectangle fits. The range
    of the sides is not given there; here it is 1 to 28 pixels.

    Args:
        count: number of images.
        random: source of randomness.

    Returns:
        `(images, labels)`: uint8 `(count, 28, 28, 1)` of 0 and 255, and int64
        `(count,)`, 1 where the height is greater than the width (tall), else 0.
    """
    sides = np.arange(1, SIDE + 1)
    heights, widths = (grid.ravel() for grid in np.meshgrid(sides, sides))
    allowed = np.abs(heights - widths) >= 3
    heights, widths = heights[allowed], widths[allowed]
    # Drawing among the allowed pairs is drawing among all and rejecting.
    pair = random.randint(0, heights.size, size=count)
    height, width = heights[pair], widths[pair]
    top = (random.random_sample(count) * (SIDE + 1 - height)).astype(np.int64)
    left = (random.random_sample(count) * (SIDE + 1 - width)).astype(np.int64)

    pixel = np.arange(SIDE)
    row = pixel - top[:, None]
    column = pixel - left[:, None]
    row_inside = (row >= 0) & (row < height[:, None])
    column_inside = (column >= 0) & (column < width[:, None])
    row_edge = (row == 0) | (row == height[:, None] - 1)
    column_edge = (column == 0) | (column == width[:, None] - 1)
    outline = (row_edge[:, :, None] & column_inside[:, None, :]) | (
        row_inside[:, :, None] & column_edge[:, None, :]
    )
    return _as_images(outline), (height > width).astype(np.int64)


def draw_convex(
    count: int, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draws white regions, half of them convex (one more if `count` is odd: not).

    As Larochelle et al. (2007), section 3.3, and the description published with their
    data say:

    * A convex region is the intersection of half-planes whose location and
      orientation are uniform; their number is geometric with parameter 0.195. A
      region of less than 19 pixels is drawn again.
    * A region that is not convex is the union of 2 to 4 (uniform) convex regions,
      each drawn as above, but with parameter 0.07 and at least 10 pixels. A union
      that turns out convex is drawn again.
    * The parameters make the mean number of white pixels the same in both classes.

    Three things are left open there. The number of half-planes counts from 0 here, and
    the location of a half-plane is a point of its border, uniform in the image: with
    these two the classes come out balanced as described (450 white pixels of 784),
    with a number from 1 they do not (270 and 465). It makes a third of the convex
    regions the whole image. And a set of pixels counts as convex if it holds every
    pixel of its own convex hull, as every intersection of half-planes does.

    Args:
        count: number of images.
        random: source of randomness.

    Returns:
        `(images, labels)`: uint8 `(count, 28, 28, 1)` of 0 and 255, and int64
        `(count,)`, 1 where the region is convex, else 0.
    """
    labels = random.permutation(count) % 2
    regions = np.zeros((count, SIDE, SIDE), bool)
    convex = np.flatnonzero(labels)
    regions[convex] = _convex_regions(convex.size, 0.195, 19, random)
    pending = np.flatnonzero(labels == 0)
    while pending.size:
        parts = random.randint(2, 5, size=pending.size)
        image = np.repeat(np.arange(pending.size), parts)
        pieces = _convex_regions(image.size, 0.07, 10, random)
        first = np.cumsum(parts) - parts
        union = np.logical_or.reduceat(pieces, first, axis=0)
        regions[pending] = union
        pending = pending[is_convex(union)]
    return _as_images(regions), labels.astype(np.int64)


def is_convex(regions: np.ndarray) -> np.ndarray:
    """Tells which sets of pixels hold every pixel of their convex hull.

    Args:
        regions: bool `(count, height, width)`.

    Returns:
        bool `(count,)`; an empty region is convex.
    """
    height, width = regions.shape[1:]
    pixels_in_row = regions.sum(axis=2)
    filled = pixels_in_row > 0
    first = np.argmax(regions, axis=2)
    last = width - 1 - np.argmax(regions[:, :, ::-1], axis=2)
    # The hull in a row is spanned by the segments between the ends of a row above
    # and a row below. Rounding inward is monotone, so it may come first.
    left = np.where(filled, first, width)
    right = np.where(filled, last, -1)
    for above in range(height):
        for below in range(above + 2, height):
            both = (filled[:, above] & filled[:, below])[:, None]
            step = np.arange(1, below - above)
            rows = slice(above + 1, below)
            start = first[:, above, None] * (below - above - step)
            border = -((-(start + first[:, below, None] * step)) // (below - above))
            left[:, rows] = np.where(
                both, np.minimum(left[:, rows], border), left[:, rows]
            )
            start = last[:, above, None] * (below - above - step)
            border = (start + last[:, below, None] * step) // (below - above)
            right[:, rows] = np.where(
                both, np.maximum(right[:, rows], border), right[:, rows]
            )
    hull_pixels = np.maximum(right - left + 1, 0)
    return np.asarray((hull_pixels == pixels_in_row).all(axis=1))


def _convex_regions(
    count: int, parameter: float, least: int, random: np.random.RandomState
) -> np.ndarray:
    """Intersections of half-planes of at least `least` pixels, bool (count, 28, 28).

    Args:
        count: number of regions.
        parameter: of the geometric distribution of the number of half-planes.
        least: regions with less pixels are rejected.
        random: source of randomness.
    """
    centres = np.arange(SIDE) + 0.5
    regions = np.empty((count, SIDE, SIDE), bool)
    done = 0
    while done < count:
        candidates = min(2 * (count - done) + 16, 4096)
        planes = random.geometric(parameter, size=candidates) - 1
        region = np.ones((candidates, SIDE, SIDE), bool)
        alive = np.arange(candidates)
        for plane in range(planes.max()):
            # A region with too few pixels will not grow: leave it alone.
            cut = alive[planes[alive] > plane]
            if not cut.size:
                break
            row, column = random.random_sample((2, cut.size, 1)) * SIDE
            angle = random.random_sample((cut.size, 1)) * (2 * np.pi)
            across = np.cos(angle) * (centres - column)
            down = np.sin(angle) * (centres - row)
            left = region[cut] & (across[:, None, :] > -down[:, :, None])
            region[cut] = left
            too_small = left.sum(axis=(1, 2)) < least
            alive = np.setdiff1d(alive, cut[too_small], assume_unique=True)
        kept = region[alive[: count - done]]
        regions[done : done + len(kept)] = kept
        done += len(kept)
    return regions


def _as_images(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.uint8)[..., None] * np.uint8(255)
