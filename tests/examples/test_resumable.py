import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_lsh

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def examples():
    """The scripts as modules, imported as they import each other."""
    before = set(sys.modules)
    sys.path.insert(0, str(EXAMPLES))
    try:
        import amazon_670k
        import resumable
        import skip_gram
        import tags

        yield SimpleNamespace(
            resumable=resumable, tags=tags, skip_gram=skip_gram, amazon_670k=amazon_670k
        )
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(
                str(EXAMPLES)
            ):
                del sys.modules[name]


@pytest.fixture
def resumable(examples):
    return examples.resumable


@pytest.fixture
def call(examples, monkeypatch, capsys):
    """Runs a script here, as in a process of its own, and returns what it prints."""

    def call_main(main, *arguments):
        keras.utils.clear_session()  # names are given anew
        monkeypatch.setattr(sys, "argv", ["example.py", *map(str, arguments)])
        examples.resumable.run(main)
        return capsys.readouterr().out

    return call_main


def make_model(units=3):
    keras.utils.clear_session()
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dropout(0.5)]
    )
    model.compile(keras_lsh.LazyAdam(), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def change(model, seed):
    """Gives all that is saved other values."""
    generator = np.random.default_rng(seed)
    for variable in [*model.variables, *model.optimizer.variables]:
        values = generator.uniform(1, 100, variable.shape)
        variable.assign(values.astype(variable.dtype))


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [variable.numpy().copy() for variable in variables]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def saved_bytes(path):
    """Weights, tables and optimizer state as they lie in a checkpoint."""
    data = path.read_bytes()
    start = data.index(b"\n") + 1
    size = int.from_bytes(data[start : start + 8], "little")
    return data[start + 8 + size : -32]


def figures_without_times(output):
    results = json.loads((output / "results.json").read_text())
    for segment in results["history"]:
        assert segment.pop("seconds") > 0
        segment.pop("lsh/rebuild_ms", None)
    return results


def test_killed_run_goes_on_as_if_nothing_had_been(examples, call, tmp_path):
    """A quick run of `amazon_670k.py`, and with it of `tags.py`, whose recipe it is."""
    script = examples.amazon_670k
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"

    def run(*arguments):
        return call(
            lambda: examples.tags.main(
                script.__doc__, "amazon_670k_output", script.DEFAULTS, script.QUICK
            ),
            "--quick",
            *arguments,
        )

    process = subprocess.Popen(
        [sys.executable, script.__file__, "--quick", "--output", killed],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    # While segments are trained and written, the first of two being there.
    deadline = time.monotonic() + 200
    while not (killed / "checkpoint").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1.5))
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output.decode()
    # Nothing of TensorFlow's own.
    assert not re.search("oneDNN|cuda|absl", output.decode())
    assert not (killed / "results.json").exists()

    output = run("--output", killed)
    assert f"Going on from {killed}/checkpoint, after step" in output
    assert "  1/2: steps 10, " in output
    output = run("--output", unbroken)
    assert "Going on" not in output
    assert "5,000 features, 20,000 labels" in output
    assert re.search(r"^hashing( +0\.\d{4}){3} +[\d.]+ ms$", output, re.M)
    results = figures_without_times(unbroken)
    assert [segment["steps"] for segment in results["history"]] == [10, 20]
    assert figures_without_times(killed) == results
    assert saved_bytes(killed / "checkpoint") == saved_bytes(unbroken / "checkpoint")
    assert sorted(path.name for path in killed.iterdir()) == [
        "checkpoint",
        "results.json",
    ]

    # Once more, with the checkpoint of what is done, it only reports; but a damaged one
    # is refused in a line, and so is one of another run.
    checkpoint = killed / "checkpoint"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-1])
    with pytest.raises(SystemExit, match="^error: .* is damaged.* --restart.*$"):
        run("--output", killed)
    checkpoint.write_bytes(whole)
    with pytest.raises(SystemExit, match="active: 8 there, 300 here.*--restart"):
        run("--active", 300, "--output", killed)
    assert checkpoint.read_bytes() == whole


def test_skip_gram_quick(examples, call, tmp_path):
    output = call(examples.skip_gram.main, "--quick", "--output", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["figures"]["held-out loss"] < np.log(1000) - 0.1
    rows = re.findall(r"^  (topic\d+)_word\d+: (.*)$", output, re.M)
    assert len(rows) == 8
    shared = [
        topic == word.split("_")[0]
        for topic, neighbours in rows
        for word in neighbours.split(", ")
    ]
    assert np.mean(shared) > 0.3  # one in ten by chance
    header, rest = (tmp_path / "vectors.bin").read_bytes().split(b"\n", 1)
    assert header == b"1000 128"
    word, rest = rest.split(b" ", 1)
    assert re.fullmatch(rb"topic\d_word\d+", word)
    assert np.isfinite(np.frombuffer(rest[: 4 * 128], "<f4")).all()
    assert rest[4 * 128 : 4 * 128 + 1] == b"\n"


class TestCheckpoint:
    IDENTITY = {"data": "abc", "rate": 0.1, "sizes": [1, 2]}  # noqa: RUF012
    HISTORY = [{"steps": 5, "loss": 0.1 + 0.2}]  # noqa: RUF012

    @pytest.fixture
    def path(self, resumable, tmp_path):
        model = make_model()
        change(model, 1)
        path = tmp_path / "checkpoint"
        resumable.save(path, model, self.IDENTITY, self.HISTORY)
        self.saved = state(model)
        return path

    def assert_refused(self, resumable, path, message, model=None, identity=None):
        model = model or make_model()
        change(model, 2)
        before, there = state(model), path.read_bytes()
        with pytest.raises(resumable.CheckpointError, match=message):
            resumable.restore(path, model, identity or self.IDENTITY)
        assert_same(state(model), before)
        assert path.read_bytes() == there

    def test_restores_all_that_training_changes(self, resumable, path):
        model = make_model()
        assert {"iteration", "last_step", "seed_generator_state"} <= {
            re.sub(".*(iteration|last_step|seed_generator_state).*", r"\1", each.path)
            for each in [*model.variables, *model.optimizer.variables]
        }
        assert resumable.restore(path, model, self.IDENTITY) == self.HISTORY
        assert_same(state(model), self.saved)

    def test_damage(self, resumable, path):
        whole = path.read_bytes()
        model = make_model()
        generator = np.random.default_rng(0)
        ends = [*range(0, 60, 7), *generator.integers(len(whole), size=20), -1, -32]
        for end in ends:
            path.write_bytes(whole[:end])
            self.assert_refused(resumable, path, "damaged.*Delete it", model)
        for place in [*range(30), *generator.integers(len(whole), size=30), -1, -33]:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << generator.integers(8)
            path.write_bytes(damaged)
            self.assert_refused(resumable, path, "damaged.*Delete it", model)
        for foreign in (whole + b"\0", b"PK\3\4" + whole, b"some text\n"):
            path.write_bytes(foreign)
            self.assert_refused(resumable, path, "damaged.*--restart", model)

    def test_of_another_run(self, resumable, path):
        for identity, message in (
            ({**self.IDENTITY, "rate": 0.2}, r"\(rate: 0.1 there, 0.2 here\)"),
            ({**self.IDENTITY, "new": 1}, "new: None there, 1 here"),
            ({"data": "abc", "rate": 0.1}, r"sizes: \[1, 2\] there, None here"),
        ):
            self.assert_refused(resumable, path, message, identity=identity)

    def test_of_another_model(self, resumable, path):
        message = "other variables.*Delete it, or pass --restart"
        self.assert_refused(resumable, path, message, make_model(units=5))

    def test_of_another_version(self, resumable, tmp_path, monkeypatch):
        arguments = {
            "batches_from": None,
            "steps": 0,
            "segment": 1,
            "rebuild_every": 1,
            "output": tmp_path,
            "identity": {},
        }
        saved = {}
        monkeypatch.setattr(resumable, "restore", lambda *x: saved.update(x[2]) or [])
        (tmp_path / "checkpoint").touch()
        assert resumable.train(make_model(), **arguments) == []
        monkeypatch.undo()
        resumable.save(tmp_path / "checkpoint", make_model(), saved, [])
        assert resumable.train(make_model(), **arguments) == []
        monkeypatch.setattr(keras_lsh, "__version__", "99")
        with pytest.raises(
            resumable.CheckpointError, match="version of keras_lsh: .* there, 99 here"
        ):
            resumable.train(make_model(), **arguments)

    def test_unreadable(self, resumable, tmp_path):
        with pytest.raises(resumable.CheckpointError, match="cannot be read: Is a dir"):
            resumable.restore(tmp_path, make_model(), {})

    @pytest.mark.parametrize("error", [SystemExit, OSError(28, "No space left")])
    @pytest.mark.parametrize("point", ["write", "fsync", "replace"])
    def test_a_stop_while_it_is_written(
        self, resumable, path, monkeypatch, error, point
    ):
        """SystemExit stands for SIGKILL: nothing is tidied up."""

        def stop(*_):
            raise error

        newer = make_model()
        change(newer, 3)
        if point == "write":
            calls = iter(range(5))
            as_bytes = resumable._bytes
            monkeypatch.setattr(
                resumable,
                "_bytes",
                lambda array: stop() if next(calls) == 4 else as_bytes(array),
            )
        else:
            monkeypatch.setattr(resumable.os, point, stop)
        killed = error is SystemExit
        expected = SystemExit if killed else resumable.CheckpointError
        with pytest.raises(expected) as raised:
            resumable.save(path, newer, self.IDENTITY, [])
        scratch = path.with_name("checkpoint.incomplete")
        assert scratch.exists() == killed
        if not killed:
            message = "No space left. What was written before is intact"
            assert message in str(raised.value)
        monkeypatch.undo()

        model = make_model()
        assert resumable.restore(path, model, self.IDENTITY) == self.HISTORY
        assert_same(state(model), self.saved)
        resumable.save(path, newer, self.IDENTITY, [])
        assert resumable.restore(path, model, self.IDENTITY) == []
        assert_same(state(model), state(newer))
        assert not scratch.exists()


def test_directory_is_for_one_process(resumable, tmp_path):
    path = tmp_path / "new" / "output"
    with resumable.directory(path):
        (path / "checkpoint").touch()
        with (
            pytest.raises(resumable.CheckpointError, match="Another process is at"),
            resumable.directory(path, restart=True),
        ):
            pass
        assert (path / "checkpoint").exists()
    with resumable.directory(path, restart=True):
        assert not (path / "checkpoint").exists()
    (tmp_path / "file").touch()
    with (
        pytest.raises(resumable.CheckpointError, match="cannot be used: .*exists"),
        resumable.directory(tmp_path / "file"),
    ):
        pass


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("tags", ["--train", "missing", "--test", "missing"], "No such file.*missing"),
        ("tags", ["--active", 3], "--active must be from 9, the most labels of"),
        ("skip_gram", ["--words", "topic0_word0", "zzz"], "Not in the vocab.*: zzz$"),
        ("skip_gram", ["--active", 2000], "--active must be at most 1000"),
        ("skip_gram", ["--synthetic", 30, 100], "The text is too short: 30 words"),
    ],
)
def test_bad_arguments(examples, call, tmp_path, script, arguments, message):
    main = getattr(examples, script).main
    with pytest.raises(SystemExit, match=f"(?s)^error: .*{message}"):
        call(main, "--quick", "--output", tmp_path, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--seed", "-1"],
        ["--learning-rate", "nan"],
        ["--train", "file"],
        ["--model", "model.h5"],
        ["--model", "missing/model.keras"],
    ],
)
def test_malformed_arguments(examples, call, arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        call(examples.tags.main, *arguments)
    assert raised.value.code == 2
    assert re.search(f"{arguments[0]}.* (must|go together)", capsys.readouterr().err)
