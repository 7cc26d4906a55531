import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tensorflow_datasets")

DEMO = pathlib.Path(__file__).parents[2] / "examples" / "demo.py"


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, str(DEMO), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo"]


@pytest.fixture
def results(demo):
    return [
        demo.Result("Dense", 0.98, 20.0, 1.0, [], 2_784_000.0, [0.9, 0.98]),
        demo.Result(
            "LSHDense", 0.97, 9.5, 0.05, [0.9, 0.8, 0.7], 278_400.0, [0.8, 0.97]
        ),
        demo.Result("random control", 0.1, 5, 0.05, [0.05] * 3, 139_200, [0.1, 0.1]),
    ]


def test_quick_run(tmp_path):
    out = tmp_path / "out"
    process = run(
        *("--quick", "--epochs", 1, "--tfds-dir", tmp_path / "tfds", "--out", out),
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    output = process.stdout
    assert "784-1000-1000-1000-2, ReLU; epochs: 1, of 16 steps each" in output
    for number in (1, 2, 3):
        assert f"\n{number}/3  " in output
    rows = re.findall(r"^(?:Dense|LSHDense|random control) .*%.*$", output, re.M)
    assert len(rows) == 3
    assert "the same, bit for bit" in output
    assert output.count("val_accuracy") == 3
    # Nothing of TensorFlow's own, neither from here nor from the new process.
    assert not re.search("oneDNN|cuda|absl", output + process.stderr)

    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "saved_model" / "saved_model.pb").exists()
    dense, lsh, random = json.loads((out / "results.json").read_text())
    assert dense["active_fraction"] == 1
    assert dense["multiplications"] == 1000 * (784 + 1000 + 1000)
    for row in (lsh, random):
        assert row["active_fraction"] == 0.05
        assert len(row["recall"]) == 3 and len(row["curve"]) == 1
        assert row["multiplications"] < dense["multiplications"] / 2
    assert np.mean(lsh["recall"]) > 2 * np.mean(random["recall"])


def test_unknown_data_is_said_in_one_line(tmp_path):
    process = run("--data", "rectangels", "--out", tmp_path / "out", cwd=tmp_path)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert "'rectangels'" in line and "near it: rectangles" in line


@pytest.mark.parametrize(
    "arguments", [["--active", "0"], ["--active", "1.5"], ["--epochs", "0"]]
)
def test_bad_arguments(demo, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    with pytest.raises(SystemExit) as raised:
        demo.parse_arguments()
    assert raised.value.code == 2
    assert f"{arguments[0]} must be" in capsys.readouterr().err


def test_table(demo, results):
    lines = demo.table(results, 50).splitlines()
    assert "recall of the true top 50" in lines[0]
    assert re.split("  +", lines[3]) == [
        *("Dense", "98.00 %", "20.0", "100.0 %", "-", "2,784,000 (100.0 %)")
    ]
    assert "0.90 0.80 0.70 (0.80)" in lines[4] and "( 10.0 %)" in lines[4]
    assert len(set(map(len, lines))) == 1
    assert len(lines[0]) < 100


def test_plot(demo, results, tmp_path):
    demo.plot(results, 50, "title", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


class TestStepTimer:
    def times(self, demo, monkeypatch, seconds):
        """What the timer says of an epoch whose steps begin at these times."""
        clock = iter(seconds)
        monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
        timer = demo.StepTimer()
        timer.on_epoch_begin(0)
        for step in range(demo.REBUILD_EVERY * len(seconds)):
            timer.on_train_batch_begin(step)
        return timer.milliseconds

    def test_median_of_windows_without_the_first(self, demo, monkeypatch):
        # Windows of 9, 1, 2 and 30 seconds, ten steps each.
        assert self.times(demo, monkeypatch, [0, 9, 10, 12, 42]) == pytest.approx(200)

    def test_one_window_is_better_than_none(self, demo, monkeypatch):
        assert self.times(demo, monkeypatch, [0, 9]) == pytest.approx(900)

    def test_too_few_steps(self, demo, monkeypatch):
        assert np.isnan(self.times(demo, monkeypatch, [0]))
