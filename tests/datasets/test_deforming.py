import hashlib
import itertools

import numpy as np
import pytest

from keras_lsh.datasets import deform
from keras_lsh.datasets.deforming import BLOCK, deformed_blocks


def random_state(seed=0):
    return np.random.RandomState(seed)


def blobs(count, height=28, width=28):
    """Grey images with an edge here and there, and some light at the border."""
    values = random_state(9).random_sample((count, height // 4 + 1, width // 4 + 1))
    large = np.repeat(np.repeat(values > 0.6, 4, axis=1), 4, axis=2) * values.max()
    return (255 * large[:, :height, :width, None]).astype(np.uint8)


class TestDeform:
    @pytest.mark.parametrize(("height", "width"), [(28, 28), (17, 30)])
    def test_against_scipy(self, height, width):
        ndimage = pytest.importorskip("scipy.ndimage")
        images = blobs(20, height, width)
        made = deform(images, random_state(3))
        random = random_state(3)
        noise = 2 * random.random_sample((20, 2, height, width)) - 1
        affine = 2 * random.random_sample((20, 2, 3)) - 1
        rows, columns = np.mgrid[:height, :width].astype(float)
        from_centre = rows - (height - 1) / 2, columns - (width - 1) / 2
        for image, result, fields, entries in zip(
            images[..., 0], made[..., 0], noise, affine, strict=True
        ):
            places = [
                place
                + 17 * ndimage.gaussian_filter(field, 4, mode="constant", truncate=12)
                + 0.1 * (entry[0] * from_centre[0] + entry[1] * from_centre[1])
                + entry[2]
                for place, field, entry in zip(
                    (rows, columns), fields, entries, strict=True
                )
            ]
            expected = ndimage.map_coordinates(
                image.astype(float), places, order=1, mode="grid-constant"
            )
            # Places are rounded to 256ths of a pixel, values to integers.
            np.testing.assert_allclose(result, expected, rtol=0, atol=1.5)

    def test_shapes_and_types(self):
        images = blobs(7)
        before = images.copy()
        made = deform(images, random_state())
        assert made.shape == images.shape and made.dtype == np.uint8
        np.testing.assert_array_equal(images, before)
        assert deform(images[:0], random_state()).shape == (0, 28, 28, 1)

    def test_each_image_in_its_own_way(self):
        made = deform(np.repeat(blobs(1), 50, axis=0), random_state())
        assert len(np.unique(made, axis=0)) == 50

    def test_how_far(self):
        # The centre of gravity of a point in the middle tells where it went.
        images = np.zeros((4000, 29, 29, 1), np.uint8)
        images[:, 13:16, 13:16] = 200
        made = deform(images, random_state())[..., 0].astype(float)
        mass = made.sum(axis=(1, 2))
        for axis in (1, 2):
            moved = (made.sum(axis=3 - axis) * np.arange(29)).sum(axis=1) / mass - 14
            # 0.69 from the elastic distortion, 1 / sqrt(3) from the translation.
            assert moved.std() == pytest.approx(0.9, abs=0.08)
            assert abs(moved.mean()) < 0.05

    def test_a_seed_means_the_same_images_everywhere(self):
        made = deform(blobs(200), random_state([0, 60]))
        assert hashlib.sha256(made.tobytes()).hexdigest() == (
            "d8c2d61743a1c5389315b786628cb37ed082a49664cb2dbda44b39e19baf44ed"
        )


class TestBlocks:
    def set_of(self, count, sources=30, seed=0):
        """The first images, and labels that are the numbers of the given ones."""
        given = blobs(sources), np.arange(sources)
        blocks = list(deformed_blocks(*given, count, seed))
        assert all(len(images) == BLOCK for images, _ in blocks[:-1])
        images, labels = zip(*blocks, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def test_the_given_images_come_first(self):
        images, labels = self.set_of(95)
        assert images.shape == (95, 28, 28, 1) and images.dtype == np.uint8
        np.testing.assert_array_equal(images[:30], blobs(30))
        np.testing.assert_array_equal(labels, np.arange(95) % 30)
        assert len(np.unique(images, axis=0)) == 95

    @pytest.mark.parametrize("count", [1, 30, 31, 999, 1000, 1001, 2000])
    def test_an_image_is_the_same_in_sets_of_any_size(self, count):
        images, labels = self.set_of(count)
        more_images, more_labels = self.set_of(2345)
        assert len(images) == len(labels) == count
        np.testing.assert_array_equal(images, more_images[:count])
        np.testing.assert_array_equal(labels, more_labels[:count])

    def test_no_end(self):
        blocks = deformed_blocks(blobs(30), np.arange(30), None, 0)
        images = np.concatenate([made for made, _ in itertools.islice(blocks, 3)])
        np.testing.assert_array_equal(images, self.set_of(3000)[0])

    def test_seeds(self):
        first, again, other = (self.set_of(60, seed=seed)[0] for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert (first[30:] != other[30:]).any(axis=(1, 2, 3)).all()
