import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from keras_lsh import datasets
from keras_lsh.datasets import drawing

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
            ("qqqqqqqq", "convex, rectangles"),
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
