"""Runs many trainings, keeps their rows, and goes on where it was stopped."""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

# Trains one run and returns its row; arguments: the run, where data is, `verbose`.
Train = Callable[..., dict[str, Any]]

ROWS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "accuracy"


def options(
    doc: str | None,
    name: str,
    data_dir: str = "where prepared data sets of TFDS are",
) -> argparse.ArgumentParser:
    """The arguments that all experiments share."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", metavar="DIR", help=data_dir)
    parser.add_argument(
        "--rows",
        type=pathlib.Path,
        default=ROWS / f"{name}.jsonl",
        metavar="FILE",
        help="results, one JSON object a line; runs that are there are not repeated "
        "(default: docs/accuracy/%(metavar)s)",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="seeds, from 0 on (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="trainings side by side, sharing the cores (default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="the smallest data, one seed, one epoch"
    )
    return parser


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a file; none if there is no such file.

    A last line without an end, of a sweep that was killed while it wrote, is left out.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            sys.exit(f"{path}, line {number}: {error}. Mend or delete it.")
    return rows


def sweep(
    runs: Iterable[Any],
    train: Train,
    arguments: argparse.Namespace,
    figure: str = "accuracy",
) -> list[dict[str, Any]]:
    """Trains what has no row yet, adding each row to the file as it comes.

    Args:
        runs: dataclasses of one type, whose fields are fields of their rows.
        train: of that type.
        arguments: of a parser that `options` made.
        figure: which of a row's fields is printed when it comes.

    Returns:
        The rows of all the runs, in their order.
    """
    runs = list(dict.fromkeys(runs))
    path = arguments.rows
    known = {key: row for row in read(path) if (key := _row_key(row, type(runs[0])))}
    open_runs = [run for run in runs if _key(run) not in known]
    if known and len(open_runs) < len(runs):
        print(f"{len(runs) - len(open_runs)} of {len(runs)} runs are in {path}")
    if open_runs:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_unfinished_line(path)
        start = time.perf_counter()
        for done, (run, row) in enumerate(
            _trained(open_runs, train, arguments), start=1
        ):
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            known[_key(run)] = row
            each = (time.perf_counter() - start) / done
            left = each * (len(open_runs) - done) / 60
            print(
                f"[{done}/{len(open_runs)}, {left:.0f} min left] {run}: "
                f"{figure} {row[figure]:.4f}",
                flush=True,
            )
    return [known[_key(run)] for run in runs]


def _trained(
    runs: list[Any], train: Train, arguments: argparse.Namespace
) -> Iterable[tuple[Any, dict[str, Any]]]:
    if arguments.jobs == 1:
        for run in runs:
            print(f"\n{run}", flush=True)
            verbose = 1 if sys.stdout.isatty() else 0
            yield run, train(run, arguments.data_dir, verbose)
        return
    # Two processes that generate the same data set would be in each other's way.
    load = sys.modules[train.__module__].load
    for name in dict.fromkeys(run.data for run in runs):
        load(name, arguments.data_dir)
    threads = max(1, len(os.sched_getaffinity(0)) // arguments.jobs)
    with concurrent.futures.ProcessPoolExecutor(
        arguments.jobs,
        multiprocessing.get_context("spawn"),
        initializer=_use_threads,
        initargs=(threads,),
    ) as pool:
        futures = {pool.submit(train, run, arguments.data_dir): run for run in runs}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()


def _use_threads(threads: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def _key(run: Any) -> str:
    """What a run and its row have in common."""
    return json.dumps(
        {
            name: dict(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(run).items()
        },
        sort_keys=True,
    )


def _row_key(row: dict[str, Any], run_type: Any) -> str | None:
    names = [field.name for field in dataclasses.fields(run_type)]
    if any(name not in row for name in names):
        return None
    return json.dumps({name: row[name] for name in names}, sort_keys=True)


def _drop_unfinished_line(path: pathlib.Path) -> None:
    if path.exists() and (text := path.read_text()) and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1])
