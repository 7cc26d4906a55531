import hashlib
import itertools

import numpy as np
import pytest

from keras_lsh.datasets import draw_convex, draw_rectangles
from keras_lsh.datasets.drawing import is_convex


def random_state(seed=0):
    return np.random.RandomState(seed)


class TestRectangles:
    def test_shapes_and_types(self):
        images, labels = draw_rectangles(7, random_state())
        assert images.shape == (7, 28, 28, 1) and images.dtype == np.uint8
        assert labels.shape == (7,) and labels.dtype == np.int64

    def test_each_image_is_one_outline_labelled_by_its_sides(self):
        images, labels = draw_rectangles(500, random_state())
        for image, label in zip(images[..., 0], labels, strict=True):
            assert set(np.unique(image)) == {0, 255}
            rows, columns = np.nonzero(image)
            top, bottom = rows.min(), rows.max()
            left, right = columns.min(), columns.max()
            outline = np.zeros_like(image)
            outline[[top, bottom], left : right + 1] = 255
            outline[top : bottom + 1, [left, right]] = 255
            np.testing.assert_array_equal(image, outline)
            height, width = bottom - top + 1, right - left + 1
            assert abs(height - width) >= 3
            assert label == (height > width)

    def test_all_allowed_pairs_of_sides_are_equally_likely(self):
        count = 50_000
        images, labels = draw_rectangles(count, random_state())
        heights = (images[..., 0] > 0).any(axis=2).sum(axis=1)
        widths = (images[..., 0] > 0).any(axis=1).sum(axis=1)
        pairs, seen = np.unique(heights * 100 + widths, return_counts=True)
        assert len(pairs) == 28 * 28 - 28 - 2 * 27 - 2 * 26
        expected = count / len(pairs)
        assert np.abs(seen - expected).max() < 6 * np.sqrt(expected)
        assert labels.mean() == pytest.approx(0.5, abs=0.01)

    def test_position_is_uniform_where_the_whole_rectangle_fits(self):
        images, _ = draw_rectangles(50_000, random_state())
        rows = (images[..., 0] > 0).any(axis=2)
        heights, tops = rows.sum(axis=1), rows.argmax(axis=1)
        for height in (1, 14, 27, 28):
            seen = np.bincount(tops[heights == height])
            assert len(seen) == 29 - height
            expected = seen.mean()
            assert np.abs(seen - expected).max() < 6 * np.sqrt(expected)

    def test_a_seed_means_the_same_images_everywhere(self):
        images, labels = draw_rectangles(1000, random_state([2007, 0]))
        digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        assert (
            digest == "ad91d860f5e7790aa7ebeb42eddc38d651aa16806f1d5cfe80faa7822be8dd29"
        )

    def test_none(self):
        images, labels = draw_rectangles(0, random_state())
        assert images.shape == (0, 28, 28, 1) and labels.shape == (0,)


def brute_force_is_convex(region):
    """Whether no pixel outside lies in a triangle of three pixels inside."""
    inside = np.argwhere(region)
    outside = np.argwhere(~region)
    # With repetition: a segment is a flat triangle.
    for a, b, c in itertools.combinations_with_replacement(inside, 3):
        # Twice the signed area of (p, q, r), for all points r outside.
        turns = np.stack(
            [
                (q[0] - p[0]) * (outside[:, 1] - p[1])
                - (q[1] - p[1]) * (outside[:, 0] - p[0])
                for p, q in ((a, b), (b, c), (c, a))
            ]
        )
        in_box = (
            (outside >= np.min([a, b, c], axis=0))
            & (outside <= np.max([a, b, c], axis=0))
        ).all(axis=1)
        same_side = (turns >= 0).all(axis=0) | (turns <= 0).all(axis=0)
        if (same_side & in_box).any():
            return False
    return True


class TestIsConvex:
    def test_against_brute_force(self):
        random = random_state()
        density = random.choice([0.15, 0.5, 0.95], size=(100, 1, 1))
        regions = random.random_sample((100, 5, 4)) < density
        # Random pixels are rarely convex: add regions cut out by lines.
        rows, columns = np.mgrid[:5, :4]
        normals = random.standard_normal((100, 2, 3))
        sides = normals[:, :, 0, None, None] * (rows - 2)
        sides = sides + normals[:, :, 1, None, None] * (columns - 1.5)
        regions = np.concatenate(
            [regions, (sides + normals[:, :, 2, None, None] > 0).all(axis=1)]
        )
        expected = [brute_force_is_convex(region) for region in regions]
        assert 100 <= sum(expected) < 180
        np.testing.assert_array_equal(is_convex(regions), expected)

    @pytest.mark.parametrize(
        ("picture", "expected"),
        [
            (["....", "....", "...."], True),
            (["....", ".#..", "...."], True),
            (["####", "####", "####"], True),
            (["#..#", "....", "...."], False),
            (["#...", "....", "#..."], False),
            # The segment between them meets no other pixel.
            (["#...", "..#.", "...."], True),
            (["#...", "....", "..#."], False),
            (["#...", "....", ".#.."], True),
            (["###.", "#...", "###."], False),
            ([".#..", "###.", ".#.."], True),
        ],
    )
    def test_pictures(self, picture, expected):
        region = np.array([[pixel == "#" for pixel in row] for row in picture])
        assert is_convex(region[None])[0] == expected
        assert is_convex(region.T[None])[0] == expected


@pytest.fixture(scope="module")
def drawn():
    return draw_convex(4000, random_state())


class TestConvex:
    def test_shapes_and_types(self, drawn):
        images, labels = drawn
        assert images.shape == (4000, 28, 28, 1) and images.dtype == np.uint8
        assert set(np.unique(images)) == {0, 255}
        assert labels.dtype == np.int64
        assert labels.sum() == 2000

    def test_labels_are_right(self, drawn):
        images, labels = drawn
        np.testing.assert_array_equal(is_convex(images[..., 0] > 0), labels == 1)

    def test_sizes_of_regions(self, drawn):
        images, labels = drawn
        pixels = (images > 0).sum(axis=(1, 2, 3))
        assert pixels[labels == 1].min() >= 19
        assert pixels[labels == 0].min() >= 10
        # As published: both classes have the same mean number of white pixels.
        means = [pixels[labels == label].mean() for label in (0, 1)]
        assert means == pytest.approx([450, 450], rel=0.05)

    def test_classes_are_mixed(self, drawn):
        _, labels = drawn
        assert 800 < labels[:2000].sum() < 1200

    def test_a_seed_repeats(self):
        for first, second in zip(
            draw_convex(50, random_state(3)),
            draw_convex(50, random_state(3)),
            strict=True,
        ):
            np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_few(self, count):
        images, labels = draw_convex(count, random_state())
        assert images.shape == (count, 28, 28, 1)
        assert labels.sum() == count // 2
