import collections
import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.datasets import (
    SkipGrams,
    Vocabulary,
    read_words,
    synthetic_words,
    words,
)


class TestReading:
    TEXTS = ("b.txt", "Don't STOP\nnow-\r\nnow é"), ("a.txt", ""), ("c", "one 2 three")
    WORDS = ("don't", "stop", "now", "now", "one", "three")

    @pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
    def test_archive(self, mode, tmp_path):
        path = tmp_path / "texts.tar"
        with tarfile.open(path, mode) as archive:
            archive.addfile(directory := tarfile.TarInfo("texts"))
            directory.type = tarfile.DIRTYPE
            for name, text in self.TEXTS:
                info = tarfile.TarInfo(name)
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
        assert tuple(read_words(path)) == self.WORDS

    def test_text(self, tmp_path, monkeypatch):
        monkeypatch.setattr(words, "_BLOCK", 8)
        path = tmp_path / "text"
        path.write_text("\n".join(text for _, text in self.TEXTS), encoding="utf-8")
        assert tuple(read_words(path)) == self.WORDS

    def test_errors(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="none"):
            list(read_words(tmp_path / "none"))
        path = tmp_path / "latin"
        path.write_bytes(b"caf\xe9")
        with pytest.raises(ValueError, match="latin: expected a text in UTF-8"):
            list(read_words(path))
        path = tmp_path / "cut.tar.xz"
        with tarfile.open(path, "w:xz") as archive:
            text = np.random.RandomState(0).bytes(200_000).hex().encode()
            info = tarfile.TarInfo("random")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
        path.write_bytes(path.read_bytes()[:100_000])
        with pytest.raises(ValueError, match="cut.tar.xz: .*damaged or cut off"):
            list(read_words(path))


class TestVocabulary:
    TEXT = "b", "a", "c", "a", "b", "d", "e", "a"

    def test_ids_are_by_frequency(self):
        vocabulary = Vocabulary.of(iter(self.TEXT))
        assert vocabulary.words == ("a", "b", "c", "d", "e") and len(vocabulary) == 5
        assert vocabulary.counts.tolist() == [3, 2, 1, 1, 1]
        ids = vocabulary.ids([*self.TEXT, "unknown"])
        assert ids.tolist() == [1, 0, 2, 0, 1, 3, 4, 0] and ids.dtype == np.int32

    def test_limits(self):
        assert Vocabulary.of(self.TEXT, size=3).words == ("a", "b", "c")
        assert Vocabulary.of(self.TEXT, min_count=2).words == ("a", "b")
        assert Vocabulary.of(self.TEXT, size=1, min_count=2).ids("abca").tolist() == [
            0,
            0,
        ]
        assert len(Vocabulary.of([])) == 0
        for name in ("size", "min_count"):
            with pytest.raises(ValueError, match=f"`{name}`"):
                Vocabulary.of(self.TEXT, **{name: 0})


def brute_force_pairs(text, reach):
    """All pairs of a text whose word `i` has the window `reach[i]`."""
    return collections.Counter(
        (text[i], text[j])
        for i in range(len(text))
        for j in range(max(0, i - reach[i]), min(len(text), i + reach[i] + 1))
        if i != j
    )


def counted(chunks):
    return collections.Counter(
        pair
        for centers, contexts in chunks
        for pair in zip(centers.tolist(), contexts.tolist(), strict=True)
    )


class TestSkipGrams:
    @pytest.fixture(autouse=True)
    def short_chunks(self, monkeypatch):
        monkeypatch.setattr(words, "_CHUNK", 64)

    @pytest.mark.parametrize("length", [0, 1, 2, 5, 64, 65, 500])
    def test_fixed_window(self, length):
        text = np.random.RandomState(0).randint(0, 9, length)
        pairs = SkipGrams(text, np.bincount(text, minlength=9), 1, subsample=None)
        expected = brute_force_pairs(text.tolist(), [1] * length)
        assert counted(pairs.chunks()) == expected
        assert pairs.pairs() == sum(expected.values()) == max(0, 2 * length - 2)

    def test_dynamic_window_reaches_over_the_ends_of_chunks(self):
        text = np.arange(500)
        pairs = SkipGrams(text, np.ones(500, int), 4, subsample=None, seed=3)
        got = counted(pairs.chunks(epoch=2))
        reach = np.zeros(500, int)
        for center, context in got:
            reach[center] = max(reach[center], abs(center - context))
        assert got == brute_force_pairs(text.tolist(), reach)
        # A hundred of each, give or take four standard deviations.
        inside = np.bincount(reach[4:-4], minlength=5)
        assert inside[0] == 0 and np.abs(inside[1:] - 123).max() < 40

    def test_subsampling(self):
        counts = np.array([9000, 900, 90, 9, 1])
        text = np.random.RandomState(0).permutation(np.repeat(np.arange(5), counts))
        threshold = 1e-3
        kept = np.mean(
            [
                np.bincount(
                    SkipGrams(text, counts, subsample=threshold, seed=seed)._subsampled(
                        np.random.RandomState(seed)
                    ),
                    minlength=5,
                )
                for seed in range(20)
            ],
            axis=0,
        )
        expected = counts * np.minimum(1, np.sqrt(threshold / (counts / 10_000)))
        np.testing.assert_allclose(kept, expected, rtol=0.05)
        assert kept[3:].tolist() == [9, 1]

    def test_pairs_close_up_over_words_left_out(self):
        # The word 0 hardly ever stays: the others are neighbours then.
        text = np.zeros(40_000, int)
        text[::2] = 1 + np.arange(20_000)
        counts = np.bincount(text)
        got = counted(SkipGrams(text, counts, 1, subsample=1 / 20_000).chunks())
        neighbours = sum(got[(i, i + 1)] for i in range(1, 20_000))
        assert neighbours > 19_000

    def test_epochs_and_seeds_differ(self):
        text = np.random.RandomState(0).randint(0, 50, 1000)
        counts = np.bincount(text)

        def pairs(epoch=0, seed=0):
            chunks = SkipGrams(text, counts, subsample=0.01, seed=seed).chunks(epoch)
            return np.concatenate([np.stack(chunk) for chunk in chunks], 1).tolist()

        assert pairs() == pairs()
        assert pairs() != pairs(epoch=1) and pairs() != pairs(seed=1)

    @pytest.mark.parametrize("batch_size", [29, 5000])
    def test_dataset_starts_anywhere(self, batch_size):
        text = np.random.RandomState(0).randint(0, 50, 300)
        pairs = SkipGrams(text, np.bincount(text), subsample=0.01)
        whole = np.concatenate(
            [np.stack(chunk) for epoch in range(2) for chunk in pairs.chunks(epoch)], 1
        )
        total = whole.shape[1]
        assert total == pairs.pairs(0) + pairs.pairs(1)
        steps = -(-total // batch_size)
        for start in {0, steps // 2, steps, 10**6}:
            dataset = pairs.dataset(batch_size, epochs=2, start_step=start)
            batches = [np.stack(batch) for batch in dataset.as_numpy_iterator()]
            assert len(batches) == max(0, steps - start)
            assert all(batch.shape[1] == batch_size for batch in batches[:-1])
            got = np.concatenate([np.zeros((2, 0), int), *batches], axis=1)
            np.testing.assert_array_equal(got, whole[:, start * batch_size :])
        endless = pairs.dataset(batch_size).take(steps + 3)
        assert all(len(centers) == batch_size for centers, _ in endless)
        assert endless.element_spec[0] == tf.TensorSpec([None], tf.int32)

    @pytest.mark.parametrize(
        "change, name",
        [
            ({"ids": [0.5]}, "ids"),
            ({"ids": [0, 3]}, "ids"),
            ({"ids": [-1]}, "ids"),
            ({"counts": [[1, 1, 1]]}, "counts"),
            ({"counts": [1, 0, 1]}, "counts"),
            ({"window": 0}, "window"),
            ({"subsample": 0.0}, "subsample"),
            ({"seed": -1}, "seed"),
        ],
    )
    def test_invalid(self, change, name):
        valid = {"ids": [0, 1, 2], "counts": [1, 1, 1]}
        with pytest.raises(ValueError, match=f"invalid value for `{name}`"):
            SkipGrams(**valid | change)

    def test_invalid_dataset(self):
        pairs = SkipGrams([0, 1], [1, 1])
        for name, value in {"batch_size": 0, "epochs": 0, "start_step": -1}.items():
            with pytest.raises(ValueError, match=f"`{name}`"):
                pairs.dataset(**{"batch_size": 2} | {name: value})
        with pytest.raises(ValueError, match="too short"):
            SkipGrams([0], [1]).dataset(2)
        # Two words of which none ever stays would make an endless data set of nothing.
        rare = SkipGrams([0, 0], [2], subsample=1e-30)
        with pytest.raises(tf.errors.InvalidArgumentError, match="no pairs"):
            list(rare.dataset(2).take(1))


class TestSyntheticWords:
    def test_words_of_a_topic_are_near_each_other(self):
        ids, vocabulary = synthetic_words(100_000, 1000, topics=10, seed=1)
        assert ids.shape == (100_000,) and ids.dtype == np.int32
        np.testing.assert_array_equal(
            vocabulary.counts, np.bincount(ids, minlength=1000)
        )
        assert (np.diff(vocabulary.counts) <= 0).all()
        assert len(set(vocabulary.words)) == 1000
        topics = np.array([int(w.split("_")[0][5:]) for w in vocabulary.words])
        assert np.bincount(topics).tolist() == [100] * 10
        near = np.mean(topics[ids[1:]] == topics[ids[:-1]])
        far = np.mean(topics[ids[5000:]] == topics[ids[:-5000]])
        assert near > 0.4 and far < 0.2
        again, _ = synthetic_words(100_000, 1000, topics=10, seed=1)
        np.testing.assert_array_equal(again, ids)
        assert (synthetic_words(100_000, 1000, topics=10)[0] != ids).any()

    def test_extremes(self):
        ids, vocabulary = synthetic_words(3, 7)
        assert ids.shape == (3,) and vocabulary.counts.sum() == 3
        assert len(vocabulary) == 7 and vocabulary.counts[-1] == 0
        for arguments in (
            {"tokens": 0, "vocabulary": 3},
            {"tokens": 3, "vocabulary": 0},
            {"tokens": 3, "vocabulary": 3, "topics": 4},
            {"tokens": 3, "vocabulary": 3, "seed": -1},
        ):
            with pytest.raises(ValueError, match="invalid value"):
                synthetic_words(**arguments)
