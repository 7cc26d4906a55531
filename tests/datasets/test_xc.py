import gzip
import itertools
import os
import stat
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.datasets import XCData, read_xc, stream_xc, write_xc, xc_text

ARRAYS = ("indptr", "indices", "values", "label_indptr", "label_indices")


def random_data(samples, features=50, labels=30, seed=0):
    """Samples of any number of features and labels, none included."""
    random = np.random.RandomState(seed)

    def rows(width, most):
        ids = [
            np.sort(random.permutation(width)[: random.randint(0, most)])
            for _ in range(samples)
        ]
        indptr = np.cumsum([0, *map(len, ids)])
        return indptr, np.concatenate([*ids, np.zeros(0, np.int64)])

    indptr, indices = rows(features, 12)
    # Of all magnitudes, whole numbers among them.
    values = random.standard_normal(len(indices)) * 10.0 ** random.randint(
        -30, 30, len(indices)
    )
    values[::3] = np.rint(values[::3] % 100)
    return XCData(features, labels, indptr, indices, values, *rows(labels, 5))


def samples_of(data):
    """`(features and values, labels)` of each sample, in plain Python."""
    return [
        (
            dict(
                zip(
                    data.indices[data.indptr[i] : data.indptr[i + 1]].tolist(),
                    data.values[data.indptr[i] : data.indptr[i + 1]].tolist(),
                    strict=True,
                )
            ),
            data.label_indices[
                data.label_indptr[i] : data.label_indptr[i + 1]
            ].tolist(),
        )
        for i in range(len(data))
    ]


def samples_of_batches(dataset):
    """The same of the batches of a data set, and the sizes of these."""
    samples, sizes = [], []
    for inputs, labels in dataset:
        assert inputs.values.dtype == tf.float32 and labels.dtype == tf.int32
        indices = inputs.indices.numpy()
        np.testing.assert_array_equal(indices, sorted(map(tuple, indices)) or indices)
        batch = [({}, each) for each in labels.to_list()]
        for (row, feature), value in zip(indices, inputs.values.numpy(), strict=True):
            batch[row][0][feature.item()] = value.item()
        assert inputs.shape[0] == len(batch)
        samples += batch
        sizes.append(len(batch))
    return samples, sizes


def assert_same(data, other):
    assert (data.features, data.labels) == (other.features, other.labels)
    for name in ARRAYS:
        got, expected = getattr(data, name), getattr(other, name)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected, err_msg=name)


def write_text(path, text):
    path.write_bytes(textwrap.dedent(text).encode())
    return path


class TestFormat:
    def test_plain_example(self, tmp_path):
        path = write_text(tmp_path / "x.txt", "3 5 7\n6,0 1:0.5 4:-2e1\n 0:3\n2\n")
        data = read_xc(path)
        assert (data.features, data.labels, len(data)) == (5, 7, 3)
        assert samples_of(data) == [({1: 0.5, 4: -20}, [0, 6]), ({0: 3}, []), ({}, [2])]
        assert [getattr(data, name).dtype for name in ARRAYS] == [
            np.int64,
            np.int32,
            np.float32,
            np.int64,
            np.int32,
        ]

    @pytest.mark.parametrize(
        "lines",
        [
            b"1,2 0:1 3:.5\r\n 4:1.\r\n",
            b"1,2 0:1 3:.5   \n 4:1. ",
            b"2,1\t3:+5.0e-1  0:01\n\t4:1e0\n",
            b"02,1 3:0.5 0:1\n 4:1\n\n\n  \n",
        ],
        ids=["windows", "spaces at the end", "tabs", "unsorted, empty lines after"],
    )
    def test_unusual_but_right(self, lines, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(b"\xef\xbb\xbf2 5 7 \n" + lines)
        assert samples_of(read_xc(path)) == [({0: 1, 3: 0.5}, [1, 2]), ({4: 1}, [])]

    def test_points_of_nothing(self, tmp_path):
        path = write_text(tmp_path / "x", "4 5 7\n\n \n1\n\n")
        assert samples_of(read_xc(path)) == [({}, []), ({}, []), ({}, [1]), ({}, [])]
        assert len(read_xc(path, drop_unlabelled=True)) == 1
        assert len(read_xc(write_text(tmp_path / "y", "0 5 7\n"))) == 0

    @pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
    @pytest.mark.parametrize("block", [1000, 1 << 22])
    def test_written_and_read(self, name, block, tmp_path, monkeypatch):
        monkeypatch.setattr(xc_text, "_BLOCK", block)
        path = tmp_path / name
        path.write_text("older")
        data = random_data(2500)
        write_xc(path, data)
        assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith("gz")
        assert_same(read_xc(path), data)
        assert os.listdir(tmp_path) == [name]
        assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR

    def test_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "x.txt"
        write_xc(path, random_data(3))
        before = path.read_bytes()

        def fail(*args):
            raise OSError("no space left")

        monkeypatch.setattr(xc_text, "_text_of", fail)
        with pytest.raises(OSError, match="no space left"):
            write_xc(path, random_data(4))
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.txt"]

    def test_fast_and_line_by_line_parsing_agree(self):
        random = np.random.RandomState(1)
        alphabet = list(b"0123456789" * 3 + b":::,,,   \n\n..e-+x")
        valid = b"3,1 0:1 2:.5\n 7:1e-3\n4\n"
        fast = 0
        for _ in range(1000):
            text = bytearray(valid)
            for _ in range(random.randint(0, 3)):
                text[random.randint(len(text))] = random.choice(alphabet)
            text = bytes(text).rstrip(b"\n") + b"\n"
            plain = xc_text._parse_plain(text, 9, 5)
            if plain is None:
                continue
            fast += 1
            assert_same(plain, xc_text._parse_lines(text, 9, 5, "x", 2))
        assert fast > 150
        assert xc_text._parse_plain(valid, 9, 5) is not None

    def test_numbers_are_rounded_once(self, tmp_path):
        random = np.random.RandomState(2)
        texts = [f"{x:.17g}" for x in random.random_sample(300)]
        texts += [f"{x:.9f}" for x in random.random_sample(300)]
        texts += ["0", "-0", "1e-50", "3.4028234e38", "16777217", "1" * 30]
        entries = " ".join(f"{i}:{text}" for i, text in enumerate(texts))
        path = write_text(tmp_path / "x", f"1 1000 1\n {entries}\n")
        expected = np.array([float(text) for text in texts]).astype(np.float32)
        np.testing.assert_array_equal(read_xc(path).values, expected)

    def test_normalized(self, tmp_path):
        path = write_text(tmp_path / "x", "3 5 7\n1 0:3 4:-4\n 2:0\n1 1:1e30 2:1e30\n")
        data = read_xc(path, normalize="l2")
        np.testing.assert_allclose(data.values, [0.6, -0.8, 0, 0.5**0.5, 0.5**0.5])


MALFORMED = {
    "empty file": ("", 1, "an empty file"),
    "no header": ("1,2 3:1\n", 1, "'points features labels'"),
    "two numbers in the header": ("2 3\n", 1, "'points features labels'"),
    "no features": ("2 0 3\n", 1, "the last two positive"),
    "too many labels to number": ("0 1 2147483648\n", 1, "up to 2147483647"),
    "too few lines": ("3 5 7\n1 0:1\n 0:1\n", 4, "header says, 3.*after 2 points"),
    "header only": ("3 5 7", 2, "header says, 3.*after 0 points"),
    "too many lines": (
        "1 5 7\n1 0:1\n\n2 0:1\n",
        4,
        "says, 1. Received: '2 0:1'",
    ),
    "feature too great": ("1 5 7\n1 5:1\n", 2, r"integer in \[0, 5\).*'5:1'"),
    "feature far too great": ("1 5 7\n1 99999999999:1\n", 2, r"integer in \[0, 5\)"),
    "negative feature": ("1 5 7\n1 -1:1\n", 2, r"integer in \[0, 5\).*'-1:1'"),
    "fractional feature": ("1 5 7\n1 1.0:1\n", 2, r"integer in \[0, 5\)"),
    "no feature": ("1 5 7\n1 :1\n", 2, r"integer in \[0, 5\)"),
    "repeated feature": ("2 5 7\n1\n1 3:1 2:1 3:2\n", 3, "different features.*'3:2'"),
    "label too great": ("1 5 7\n0,7 1:1\n", 2, r"integers in \[0, 7\).*'7'"),
    "negative label": ("1 5 7\n-1 1:1\n", 2, r"integers in \[0, 7\).*'-1'"),
    "missing label": ("1 5 7\n1,,2 1:1\n", 2, r"integers in \[0, 7\).*''"),
    "comma at the end": ("1 5 7\n1, 1:1\n", 2, r"integers in \[0, 7\).*''"),
    "repeated label": ("1 5 7\n3,1,3 1:1\n", 2, "different labels.*'3'"),
    "features where labels should be": ("1 5 7\n1:1\n", 2, "starts with a space"),
    "blank after a comma": ("1 5 7\n1, 2 1:1\n", 2, r"integers in \[0, 7\)"),
    "no value": ("1 5 7\n1 2:\n", 2, "finite float32 number.*'2:'"),
    "no colon": ("1 5 7\n1 2\n", 2, "'feature:value'. Received: '2'"),
    "two colons": ("1 5 7\n1 2:3:4\n", 2, "finite float32 number.*'2:3:4'"),
    "word": ("1 5 7\n1 2:x\n", 2, "finite float32 number.*'2:x'"),
    "Python's number": ("1 5 7\n1 2:1_0\n", 2, "finite float32 number.*'2:1_0'"),
    "two points": ("1 5 7\n1 2:1.0.0\n", 2, "finite float32 number"),
    "point alone": ("1 5 7\n1 2:.\n", 2, "finite float32 number"),
    "not a number": ("1 5 7\n1 2:nan\n", 2, "finite float32 number"),
    "infinite": ("1 5 7\n1 2:inf\n", 2, "finite float32 number"),
    "infinite as float32": ("1 5 7\n1 2:1e39\n", 2, "finite float32 number"),
    "second of many lines": ("9 5 7\n" + "1 2:1\n" * 6 + "1 2;1\n" * 3, 8, "'2;1'"),
    "not UTF-8": (b"1 5 7\n1 2:\xff1\n", 2, r"finite float32 number.*xff"),
    "UTF-16": ("1 5 7\n1 2:1\n".encode("utf-16"), 1, "'points features labels'"),
}


@pytest.mark.parametrize("text, line, expected", MALFORMED.values(), ids=MALFORMED)
def test_malformed(text, line, expected, tmp_path):
    path = tmp_path / "broken.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"broken.txt, line {line}: .*{expected}"):
        read_xc(path)


def test_line_numbers_in_later_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(xc_text, "_BLOCK", 100)
    path = write_text(tmp_path / "x", "999 5 7\n" + "1 2:1\n" * 500 + "1 2:y\n" * 499)
    with pytest.raises(ValueError, match="line 502: .*'2:y'"):
        read_xc(path)


def test_damaged_gzip(tmp_path):
    path = tmp_path / "x.gz"
    write_xc(path, random_data(3000))
    whole = path.read_bytes()
    lines = gzip.decompress(whole).count(b"\n")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"x.gz, line (\d+): .*cut off") as caught:
        read_xc(path)
    line = int(str(caught.value).split("line ")[1].split(":")[0])
    assert lines / 4 < line < lines
    path.write_bytes(whole[:1000] + b"\0" * 50 + whole[1050:])
    with pytest.raises(ValueError, match="x.gz, line "):
        read_xc(path)


def test_missing_file(tmp_path):
    for call in (read_xc, lambda path: stream_xc(path, 2)):
        with pytest.raises(FileNotFoundError, match="none.txt"):
            call(tmp_path / "none.txt")
        with pytest.raises(IsADirectoryError):
            call(tmp_path)


class TestData:
    def test_take(self):
        data = random_data(20)
        order = [3, 19, 0, 3]
        samples = samples_of(data)
        assert samples_of(data.take(order)) == [samples[i] for i in order]
        assert len(data.take([])) == 0
        for wrong in ([20], [-1]):
            with pytest.raises(IndexError, match=r"integers in \[0, 20\)"):
                data.take(wrong)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"features": 0}, "`features`, expected a positive integer"),
            ({"indices": [0, 3, 4]}, r"`indices`.*in \[0, 4\), ascending"),
            ({"indices": [0, -1, 3]}, "`indices`"),
            ({"indices": [1, 0, 3]}, "`indices`"),
            ({"indices": [1, 1, 3]}, "`indices`"),
            ({"indices": [0.0, 1, 3]}, "`indices`.*integers"),
            ({"indptr": [0, 2, 4]}, "`indptr`"),
            ({"indptr": [0, 4, 3]}, "`indptr`"),
            ({"indptr": [1, 2, 3]}, "`indptr`"),
            ({"indptr": []}, "`indptr`"),
            ({"values": [1, 2]}, "`values`.*as many as indices"),
            ({"values": [1, 2, 1e39]}, "`values`.*finite"),
            ({"label_indptr": [0, 1]}, "`label_indptr`, expected as many"),
            ({"label_indices": [6]}, "`label_indices`"),
        ],
    )
    def test_invalid(self, change, message):
        valid = {
            "features": 4,
            "labels": 6,
            "indptr": [0, 2, 3],
            "indices": [0, 3, 3],
            "values": [1, 2, 3],
            "label_indptr": [0, 0, 1],
            "label_indices": [5],
        }
        assert len(XCData(**valid)) == 2
        with pytest.raises(ValueError, match=message):
            XCData(**valid | change)


class TestDataset:
    def test_own_order(self):
        data = random_data(11)
        got, sizes = samples_of_batches(data.dataset(4))
        assert got == samples_of(data) and sizes == [4, 4, 3]
        got, sizes = samples_of_batches(data.dataset(4, drop_remainder=True, epochs=2))
        assert got == samples_of(data)[:8] * 2 and sizes == [4] * 4

    @pytest.mark.parametrize("drop_remainder", [False, True])
    def test_order_is_of_seed_and_epoch_and_starts_anywhere(self, drop_remainder):
        data = random_data(11)
        samples = samples_of(data)
        steps = data.steps_per_epoch(4, drop_remainder)
        assert steps == (2 if drop_remainder else 3)
        expected = [
            [samples[i] for i in order[4 * step : 4 * step + 4]]
            for order in (
                np.random.RandomState([7, epoch]).permutation(11) for epoch in range(3)
            )
            for step in range(steps)
        ]
        for start in (0, 2 * steps - 1, 99):
            batches = data.dataset(
                4, seed=7, epochs=3, start_step=start, drop_remainder=drop_remainder
            )
            got, _ = samples_of_batches(batches)
            left = list(itertools.chain(*expected[start:]))
            assert got == left
            assert len(batches) == max(0, 3 * steps - start)
            endless = data.dataset(
                4, seed=7, epochs=None, start_step=start, drop_remainder=drop_remainder
            )
            assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
            got, sizes = samples_of_batches(endless.take(2))
            assert len(sizes) == 2
            assert got[: len(left)] == left[: len(got)]

    def test_signature(self):
        inputs, labels = random_data(9).dataset(4).element_spec
        assert inputs == tf.SparseTensorSpec([None, 50], tf.float32)
        assert labels == tf.RaggedTensorSpec([None, None], tf.int32)
        inputs, labels = random_data(9).dataset(4, drop_remainder=True).element_spec
        assert inputs.shape == [4, 50] and labels.shape == [4, None]

    def test_is_left_without_waiting(self, tmp_path):
        # Where an endless set is autotuned, leaving it can take as long as it was used.
        write_xc(path := tmp_path / "set.txt", data := random_data(9))
        for batches in (data.dataset(4, epochs=None), stream_xc(path, 4, epochs=None)):
            assert batches.options().autotune.enabled is False

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"batch_size": 0}, "`batch_size`, expected a positive integer"),
            ({"batch_size": 2, "seed": -1}, "`seed`"),
            ({"batch_size": 2, "epochs": 0}, "`epochs`"),
            ({"batch_size": 2, "start_step": -1}, "`start_step`"),
            ({"batch_size": 10, "drop_remainder": True}, "There is no batch"),
        ],
    )
    def test_invalid(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            random_data(9).dataset(**arguments)


class TestStream:
    @pytest.fixture(scope="class")
    @classmethod
    def file(cls, tmp_path_factory):
        data = random_data(2500, seed=3)
        path = tmp_path_factory.mktemp("xc") / "x.txt.gz"
        write_xc(path, data)
        return path, data

    def test_order_of_the_file(self, file, monkeypatch):
        monkeypatch.setattr(xc_text, "_BLOCK", 10_000)
        path, data = file
        got, sizes = samples_of_batches(stream_xc(path, 300))
        assert got == samples_of(data) and sizes == [300] * 8 + [100]
        labelled = [sample for sample in samples_of(data) if sample[1]]
        got, sizes = samples_of_batches(
            stream_xc(path, 300, drop_unlabelled=True, drop_remainder=True, epochs=2)
        )
        full = len(labelled) // 300 * 300
        assert got == labelled[:full] * 2 and set(sizes) == {300}

    def test_shuffled_in_windows(self, file):
        path, data = file
        batches = stream_xc(path, 100, shuffle=1150, seed=5, epochs=2)
        samples, expected = samples_of(data), []
        for epoch in range(2):
            for number, start in enumerate(range(0, 2500, 1200)):
                window = samples[start : start + 1200]
                random = np.random.RandomState([5, epoch, number])
                expected += [window[i] for i in random.permutation(len(window))]
        assert samples_of_batches(batches)[0] == expected

    def test_errors(self, file, tmp_path):
        path = write_text(tmp_path / "x", "2 5\n")
        with pytest.raises(ValueError, match="line 1"):
            stream_xc(path, 2)
        lines = gzip.decompress(file[0].read_bytes()).split(b"\n")
        lines[2000] = b"1 2"
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(ValueError, match="line 2001"):
            stream_xc(path, 2)
        path.write_bytes(b"\n".join(lines[:1500]))
        message = "line 1501: .*header says, 2500.*after 1499"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            samples_of_batches(stream_xc(path, 100, epochs=None))
        for arguments in ({"shuffle": 0}, {"seed": -1}, {"normalize": "l1"}):
            with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
                stream_xc(file[0], 2, **arguments)
