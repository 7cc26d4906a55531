import io
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import datasets
from keras_lsh.datasets import drawing
from keras_lsh.datasets.deforming import deformed_blocks

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Where the sets of this module are prepared, once."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def no_network(monkeypatch):
    def urlopen(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


@pytest.mark.parametrize(
    ("name", "draw", "classes"),
    [
        ("rectangles/small", drawing.draw_rectangles, ["wide", "tall"]),
        ("convex/small", drawing.draw_convex, ["not_convex", "convex"]),
    ],
)
def test_drawn_sets(name, draw, classes, data_dir):
    (x_train, y_train), (x_test, y_test), info = datasets.load(name, data_dir)
    assert x_train.shape == (2000, 28, 28, 1) and x_train.dtype == np.float32
    assert x_test.shape == (1000, 28, 28, 1)
    assert y_train.shape == (2000,) and y_train.dtype == np.int64
    assert info.features["label"].names == classes
    assert info.name == name.split("/")[0]
    # Stored and read unchanged, in order; the splits are independent.
    for stream, (x, y) in enumerate([(x_train, y_train), (x_test, y_test)]):
        images, labels = draw(len(x), np.random.RandomState([2007, stream]))
        np.testing.assert_array_equal(x, images / 255)
        np.testing.assert_array_equal(y, labels)


def test_flattened_and_read_again(data_dir):
    (images, labels), _, _ = datasets.load("rectangles/small", data_dir)
    (rows, again), _, _ = datasets.load("rectangles/small", str(data_dir), flatten=True)
    np.testing.assert_array_equal(rows, images.reshape(2000, 784))
    np.testing.assert_array_equal(again, labels)


def test_plain_tfds_finds_the_builders(data_dir):
    datasets.load("rectangles/small", data_dir)
    examples, info = tfds.load(
        "rectangles/small", data_dir=data_dir, split="test", with_info=True
    )
    assert len(examples) == info.splits["test"].num_examples == 1000


@pytest.mark.parametrize(
    ("builder", "config", "train", "test"),
    [
        ("Rectangles", None, 12_000, 50_000),
        ("Rectangles", "spring2017", 12_000, 50_000),
        ("Rectangles", "larochelle2007", 1_200, 50_000),
        ("Convex", None, 8_000, 50_000),
        ("Convex", "larochelle2007", 8_000, 50_000),
    ],
)
def test_sizes(builder, config, train, test, tmp_path):
    made = getattr(datasets, builder)(data_dir=tmp_path, config=config)
    assert made.builder_config.train_examples == train
    assert made.builder_config.test_examples == test


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = datasets.nothing_such


def test_tfds_is_imported_by_load_and_not_before():
    program = (
        "import sys\n"
        "import keras_lsh.datasets\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "sys.modules['tensorflow_datasets'] = None\n"
        "try:\n"
        "    keras_lsh.datasets.load('rectangles')\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert "tensorflow_datasets" in process.stdout
    assert 'pip install "keras_lsh[datasets]"' in process.stdout


def test_package_that_tfds_does_not_declare(tmp_path, monkeypatch):
    def download_and_prepare(self):
        raise ModuleNotFoundError("not there", name="importlib_resources")

    monkeypatch.setattr(
        datasets.Rectangles, "download_and_prepare", download_and_prepare
    )
    with pytest.raises(ImportError, match="importlib_resources") as raised:
        datasets.load("rectangles/small", tmp_path)
    assert 'pip install "keras_lsh[datasets]"' in str(raised.value)


class TestNotPrepared:
    def test_download_not_allowed(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="download") as raised:
            datasets.load("mnist", tmp_path, download=False)
        assert "'mnist'" in str(raised.value)
        assert str(tmp_path) in str(raised.value)
        assert "data_dir" in str(raised.value)

    def test_no_network(self, tmp_path, no_network):
        start = time.monotonic()
        with pytest.raises(ConnectionError, match="no network") as raised:
            datasets.load("fashion_mnist", tmp_path)
        assert time.monotonic() - start < 10
        assert str(tmp_path) in str(raised.value)
        assert "data_dir" in str(raised.value)

    def test_an_answer_of_the_server_lets_tfds_try(self, tmp_path, monkeypatch):
        def urlopen(request, timeout):
            raise urllib.error.HTTPError(request.full_url, 405, "no HEAD", {}, None)

        def download_and_prepare(self):
            raise OSError("disk full")

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        monkeypatch.setattr(
            tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare
        )
        with pytest.raises(OSError, match=r"Could not prepare.*'mnist'.*disk full"):
            datasets.load("mnist", tmp_path)

    def test_data_dir_that_cannot_be_one(self, tmp_path):
        file = tmp_path / "file"
        file.touch()
        with pytest.raises(OSError, match="data_dir"):
            datasets.load("rectangles/small", file)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("rectangels", "near it: rectangles"),
            ("mnsit", "mnist"),
            ("qqqqqqqq", "convex, mnist8m, rectangles"),
            ("mnist8m/large", "8m, 480k, small"),
            ("mnist8m/0", "8m, 480k, small"),
            ("rectangles/large", "spring2017, larochelle2007, small"),
            ("mnist/large", "config"),
            ("rectangles/small:9.9.9", "version"),
            ("mnist:9.9.9", "version"),
            ("", "such as"),
            (None, "such as"),
        ],
    )
    def test_unknown(self, name, says, tmp_path):
        with pytest.raises(ValueError, match="invalid value for `name`") as raised:
            datasets.load(name, tmp_path)
        assert says in str(raised.value)
        assert repr(name) in str(raised.value)

    @pytest.mark.parametrize("name", ["imdb_reviews/plain_text", "stanford_dogs"])
    def test_not_images_of_one_size(self, name, tmp_path):
        with pytest.raises(ValueError, match="images of one size") as raised:
            datasets.load(name, tmp_path)
        assert name in str(raised.value)


def stands_in(monkeypatch, name, examples):
    """Lets TFDS prepare a set from `examples`, by split, in place of downloads."""

    def split_generators(self, dl_manager):
        return {split: enumerate(given) for split, given in examples.items()}

    monkeypatch.setattr(tfds.builder_cls(name), "_split_generators", split_generators)
    # What asks its server whether it is there gets an answer.
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO())


@pytest.fixture(scope="module")
def mnist_dir(tmp_path_factory):
    """With 30 images in the place of MNIST's 60,000, and 5 to test on."""
    random = np.random.RandomState(0)
    examples = {
        split: [
            {
                "image": random.randint(0, 256, (28, 28, 1)).astype(np.uint8),
                "label": i % 10,
            }
            for i in range(count)
        ]
        for split, count in (("train", 30), ("test", 5))
    }
    folder = tmp_path_factory.mktemp("mnist8m")
    with pytest.MonkeyPatch.context() as monkeypatch:
        stands_in(monkeypatch, "mnist", examples)
        datasets.load("mnist", folder)
    return folder


class TestMNIST8M:
    def test_deforms_mnist(self, mnist_dir, no_network):
        mnist, mnist_test, _ = datasets.load("mnist", mnist_dir, download=False)
        train, test, info = datasets.load("mnist8m/1100", mnist_dir, download=False)
        given = (mnist[0] * 255).round().astype(np.uint8), mnist[1]
        images, labels = zip(*deformed_blocks(*given, 1100, seed=0), strict=True)
        np.testing.assert_array_equal(
            train[0], np.concatenate(images) / np.float32(255)
        )
        np.testing.assert_array_equal(train[1], np.concatenate(labels))
        np.testing.assert_array_equal(train[0][:30], mnist[0])
        for array, expected in zip(test, mnist_test, strict=True):
            np.testing.assert_array_equal(array, expected)
        assert info.name == "mnist8m"
        assert info.features["label"].num_classes == 10
        assert "Attribution-Share Alike" in info.redistribution_info.license
        assert "Loosli" in info.citation

    def test_any_number_and_seed(self, mnist_dir):
        sets = []
        for seed in (0, 1):
            config = datasets.MNIST8M.sized(45, seed=seed)
            builder = datasets.MNIST8M(data_dir=mnist_dir, config=config)
            builder.download_and_prepare()
            examples = builder.as_dataset(split="train", shuffle_files=False)
            sets.append(np.stack([each["image"].numpy() for each in examples]))
        assert sets[0].shape == (45, 28, 28, 1)
        np.testing.assert_array_equal(sets[0][:30], sets[1][:30])
        assert (sets[0][30:] != sets[1][30:]).any(axis=(1, 2, 3)).all()
        (images, _), _, _ = datasets.load("mnist8m/45", mnist_dir, flatten=True)
        np.testing.assert_array_equal(
            images, sets[0].reshape(45, 784) / np.float32(255)
        )

    def test_as_a_stream(self, mnist_dir):
        (images, labels), _, _ = datasets.load("mnist8m/1100", mnist_dir)
        stream = datasets.deformed_mnist(1100, mnist_dir, download=False)
        assert stream.cardinality() == 1100
        x, y = (array.numpy() for array in stream.batch(2000).get_single_element())
        np.testing.assert_array_equal(x, images)
        np.testing.assert_array_equal(y, labels)
        assert x.dtype == np.float32 and y.dtype == np.int64
        endless = datasets.deformed_mnist(None, mnist_dir, flatten=True)
        assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
        x, _ = next(iter(endless.skip(900).batch(200)))
        np.testing.assert_array_equal(x, images[900:].reshape(200, 784))
        other = datasets.deformed_mnist(1100, mnist_dir, seed=1)
        x, _ = next(iter(other.skip(30).batch(10)))
        assert (x.numpy() != images[30:40]).any(axis=(1, 2, 3)).all()

    def test_takes_little_memory_to_prepare(self, mnist_dir):
        # TFDS sorts keys within ranges of equal width, one range at a time.
        config = datasets.MNIST8M.sized(40)
        builder = datasets.MNIST8M(data_dir=mnist_dir, config=config)
        digits = np.zeros((3, 28, 28, 1), np.uint8), np.arange(3)
        keys = [key for key, _ in builder._generate_examples(digits, 40)]
        assert keys == sorted(keys)
        assert [key * 40 // 2**128 for key in keys[1:]] == list(range(39))

    @pytest.mark.parametrize(
        ("config", "train"),
        [(None, 8_100_000), ("8m", 8_100_000), ("480k", 480_000), ("small", 120_000)],
    )
    def test_sizes(self, config, train, tmp_path):
        made = datasets.MNIST8M(data_dir=tmp_path, config=config)
        assert made.name == "mnist8m"
        assert made.builder_config.train_examples == train

    @pytest.mark.parametrize("name", ["mnist8m/small", "mnist8m/70000"])
    def test_without_mnist(self, name, tmp_path, no_network):
        reason = f"'{name}' is made from 'mnist'.*The data set 'mnist' is not in"
        with pytest.raises(FileNotFoundError, match=reason):
            datasets.load(name, tmp_path, download=False)
        with pytest.raises(ConnectionError, match=reason):
            datasets.load(name, tmp_path)
        with pytest.raises(FileNotFoundError, match="'mnist' is not in"):
            datasets.deformed_mnist(10, tmp_path, download=False)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("count", v) for v in (0, -1, 1.5, "8m", True)],
            *[("seed", v) for v in (-1, 2**32, 0.5)],
        ],
    )
    def test_bad_arguments(self, name, value, mnist_dir):
        with pytest.raises(ValueError, match=rf"`{name}`.*Received: {name}="):
            datasets.deformed_mnist(**({"count": 1} | {name: value}))
        name = {"count": "train_examples"}.get(name, name)
        with pytest.raises(ValueError, match=rf"`{name}`.*Received: {name}="):
            datasets.MNIST8M.sized(**({"train_examples": 1} | {name: value}))


class TestSmallNORB:
    def test_stereo_pairs_made_smaller(self, tmp_path, monkeypatch):
        random = np.random.RandomState(0)
        examples = {
            split: [
                {
                    "image": random.randint(0, 256, (96, 96, 1)).astype(np.uint8),
                    "image2": random.randint(0, 256, (96, 96, 1)).astype(np.uint8),
                    "label_category": i % 5,
                    "instance": i,
                    **dict.fromkeys(
                        ("label_elevation", "label_azimuth", "label_lighting"), 0
                    ),
                }
                for i in range(7)
            ]
            for split in ("train", "test")
        }
        stands_in(monkeypatch, "smallnorb", examples)
        sets = datasets.load("smallnorb", tmp_path)
        flat = datasets.load("smallnorb", tmp_path, flatten=True, download=False)
        info = sets[2]
        assert info.features[info.supervised_keys[1]].num_classes == 5
        # TFDS has shuffled them, by their keys: `instance` is the number.
        for split, (x, y), (rows, _) in zip(examples, sets[:2], flat[:2], strict=False):
            builder = tfds.builder("smallnorb", data_dir=tmp_path)
            stored = builder.as_dataset(split=split, shuffle_files=False)
            order = [int(example["instance"]) for example in stored]
            assert x.shape == (7, 32, 32, 2) and x.dtype == np.float32
            assert y.dtype == np.int64
            for image, label, number in zip(x, y, order, strict=True):
                example = examples[split][number]
                assert label == example["label_category"]
                for view, name in enumerate(("image", "image2")):
                    pixels = example[name][..., 0] / 255
                    for row, column in ((0, 0), (31, 31), (5, 20)):
                        cell = pixels[
                            3 * row : 3 * row + 3, 3 * column : 3 * column + 3
                        ]
                        assert image[row, column, view] == pytest.approx(
                            cell.mean(), abs=1e-6
                        )
            np.testing.assert_array_equal(rows, x.reshape(7, 2048))

    def test_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="'smallnorb' is not in"):
            datasets.load("smallnorb", tmp_path, download=False)


@pytest.mark.skipif(
    "KERAS_LSH_TFDS_DIR" not in os.environ,
    reason="KERAS_LSH_TFDS_DIR does not name a directory with fashion_mnist prepared",
)
def test_fashion_mnist():
    (x_train, y_train), (x_test, y_test), info = datasets.load(
        "fashion_mnist", os.environ["KERAS_LSH_TFDS_DIR"], flatten=True, download=False
    )
    assert x_train.shape == (60_000, 784) and x_test.shape == (10_000, 784)
    assert x_train.min() == 0 and x_train.max() == 1
    assert x_train.mean() == pytest.approx(0.286, abs=0.001)
    assert set(y_train) == set(y_test) == set(range(10))
    assert info.features["label"].num_classes == 10
