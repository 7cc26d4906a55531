"""Sweeps of trainings go on where they were stopped."""

import dataclasses
import importlib
import json
import pathlib
import sys

import pytest

ACCURACY = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy"


@pytest.fixture
def modules(monkeypatch):
    """`sweep` of runs to a file, runs, and what was trained: it only counts."""
    monkeypatch.syspath_prepend(str(ACCURACY))
    sweep, training = (importlib.import_module(n) for n in ("sweep", "training"))
    trained = []

    def train(run, data_dir, verbose):
        trained.append(run)
        row = dataclasses.asdict(run) | {"hashing": dict(run.hashing)}
        return row | {"accuracy": 0.5 + run.seed / 100}

    def sweep_of(runs, path):
        arguments = sweep.options("", "name").parse_args(["--rows", str(path)])
        return sweep.sweep(runs, train, arguments)

    yield sweep_of, training.Run, trained
    for name in ("sweep", "training", "figures", "machine"):
        sys.modules.pop(name, None)


def make_runs(run_class, n=4):
    hashing = (("family", "SimHash"), ("bits", 6))
    return [run_class("mnist", "lsh", seed=seed, hashing=hashing) for seed in range(n)]


def test_what_is_done_is_not_done_again(modules, tmp_path):
    sweep, run_class, trained = modules
    path, runs = tmp_path / "new" / "rows.jsonl", make_runs(run_class)
    first = sweep(runs[:2], path)
    assert trained == runs[:2]
    rows = sweep(runs, path)
    assert trained == runs
    assert rows[:2] == first
    assert [row["accuracy"] for row in rows] == [0.5, 0.51, 0.52, 0.53]
    assert sweep(runs[::-1], path) == rows[::-1]
    assert trained == runs
    assert len(path.read_text().splitlines()) == 4


def test_other_settings_are_other_runs(modules, tmp_path):
    sweep, run_class, trained = modules
    run = make_runs(run_class, 1)[0]
    others = [
        dataclasses.replace(run, hashing=()),
        dataclasses.replace(run, oversample=2.0),
        dataclasses.replace(run, every=20),
    ]
    sweep([run, *others, run], tmp_path / "rows.jsonl")
    assert trained == [run, *others]


def test_killed_while_it_wrote(modules, tmp_path):
    sweep, run_class, trained = modules
    path, runs = tmp_path / "rows.jsonl", make_runs(run_class, 3)
    sweep(runs, path)
    whole = path.read_text()
    path.write_text(whole[:-20])  # the last row has no end
    trained.clear()
    sweep(runs, path)
    assert trained == runs[2:]
    assert path.read_text() == whole


def test_a_damaged_file_is_left_alone(modules, tmp_path):
    sweep, run_class, trained = modules
    path = tmp_path / "rows.jsonl"
    path.write_text('{"data": "mnist"}\n{"data": \n')
    with pytest.raises(SystemExit, match=r"rows\.jsonl, line 2"):
        sweep(make_runs(run_class), path)
    assert not trained
    assert path.read_text() == '{"data": "mnist"}\n{"data": \n'


def test_tables_and_plots_come_from_rows_alone(modules, tmp_path):
    figures = importlib.import_module("figures")
    rows = [{"accuracy": a, "depth": d} for a, d in ((0.5, 1), (0.7, 1), (0.9, 2))]
    curve = figures.by("depth", rows)
    assert curve == {1: [0.5, 0.7], 2: [0.9]}
    assert figures.percent(curve[1]) == "60.0 (50.0-70.0)"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    panels = {"data": {"method": curve}}
    texts = []
    for _ in range(2):
        figures.write(path, "Title.\nMore.", ["a", "b"], [[1, 2]], panels, "depth")
        assert "| 1 | 2 |" in (tmp_path / "rows.md").read_text()
        texts.append((tmp_path / "rows.svg").read_bytes())
    assert texts[0] == texts[1]
