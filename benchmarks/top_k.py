"""How fast are the best of very many classes found, one sample at a time?

    python benchmarks/top_k.py --out rows.jsonl

A network is trained on the synthetic set at the shape of Amazon-670K, by LSHDense as in
`accuracy/extreme_classes.py` or by sampled softmax, and its weights are given to one
with LSHDense, which is shown some training samples for its tables, or ranks all classes
by a sketch (`inference`). Then the five classes with the largest logits are asked for,
sample by sample: by `predict_top_k`, by the endpoint of an exported SavedModel, and
exactly, by the product with the whole kernel and `tf.math.top_k` in one `tf.function`.
All take turns. One JSON row for each number of candidates (`active` * `oversample`;
with a sketch `--sketch-active` and 1): median milliseconds and quartiles, ratios to the
exact one, the recall of the true five on test samples, and how many different classes
these are, which says whether the model has learned anything.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import tensorflow as tf

import keras_lsh

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "accuracy"))
import extreme

K = 5
# Samples of one after the other way: a call finds in the caches what a served model's
# last call left there, and not what another way did.
IN_TURN = 30
# By the method, and whether quickly.
TRAINED = {
    ("lsh", False): extreme.Run(
        "amazon_670k",
        "lsh",
        active=8,
        oversample=16,
        shared=True,
        explore=1500,
        every=50,
        learning_rate=3e-2,
        final_rate=0.1,
        epochs=1,
    ),
    ("sampled", False): extreme.Run(
        "amazon_670k", "sampled", active=3500, learning_rate=3e-2
    ),
    ("lsh", True): extreme.Run("quick", "lsh", active=16, shared=True, explore=100),
    ("sampled", True): extreme.Run("quick", "sampled", active=100),
}
ACTIVE = {False: 1000, True: 100}
SKETCH_ACTIVE = {False: [1000, 250], True: [100, 25]}
# Rebuilds of the tables, and the batches of samples before each.
ROUNDS, SHOWN = 6, 10


def with_weights(trained: Any, run: extreme.Run, train_set: Any) -> Any:
    """A model with the weights of the trained one, and LSHDense for its output."""
    model = extreme.make_model(run, train_set)
    hidden, output = model.layers
    sampled = isinstance(trained, extreme.SampledSoftmax)
    first, last = (trained.hidden, trained) if sampled else trained.layers
    hidden.set_weights(first.get_weights())
    output.kernel.assign(last.kernel)
    output.bias.assign(last.bias)
    return model


def with_tables(trained: Any, run: extreme.Run, train_set: Any) -> Any:
    """The same, with tables that have followed inputs."""
    model = with_weights(trained, run, train_set)
    output = model.layers[-1]
    for number in range(ROUNDS):
        for x, y in train_set.dataset(
            run.batch, seed=0, epochs=None, start_step=number * SHOWN
        ).take(SHOWN):
            with keras_lsh.label_scope(y):
                model(x, training=True)
        output.rebuild_tables()
    return model


def searches(model: Any, directory: str) -> dict[str, Callable[[Any], Any]]:
    """Functions from a sample to its best classes."""
    hidden, output = model.layers
    kernel, bias = output.kernel.value, output.bias.value

    @tf.function(input_signature=[tf.SparseTensorSpec([None, model.input_shape[-1]])])
    def exact(x: Any) -> tf.Tensor:
        logits = tf.matmul(hidden(x), kernel, transpose_b=True) + bias
        return tf.math.top_k(logits, K).indices

    model.export(directory, top_k=K, verbose=False)
    loaded = tf.saved_model.load(directory)
    return {
        "exact": exact,
        "predict_top_k": lambda x: model.predict_top_k(x, K)[0],
        "saved_model": lambda x: loaded.predict_top_k(x)["ids"],
    }


def tables(layer: keras_lsh.LSHDense) -> dict[str, Any]:
    """What matters of the tables, unless a sketch takes their place."""
    if layer.inference == "sketch":
        return {}
    hashing = layer.selector.hashing
    return {"cells": hashing.cells, "rank": hashing.rank}


def measure(model: Any, singles: list[Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        found: dict[str, list[np.ndarray]] = {}
        times: dict[str, list[float]] = {}
        functions = searches(model, directory)
        for x in singles[:3]:  # the first calls trace
            for function in functions.values():
                function(x)
        for first in range(0, len(singles), IN_TURN):
            for name, function in functions.items():
                for x in singles[first : first + IN_TURN]:
                    start = time.perf_counter()
                    ids = np.asarray(function(x))
                    milliseconds = 1000 * (time.perf_counter() - start)
                    times.setdefault(name, []).append(milliseconds)
                    found.setdefault(name, []).append(ids.reshape(-1))
    row: dict[str, Any] = {}
    for name, values in times.items():
        quartiles = np.percentile(values, [25, 50, 75])
        row[f"{name}_ms"] = round(float(quartiles[1]), 3)
        row[f"{name}_quartiles_ms"] = [round(float(q), 3) for q in quartiles[[0, 2]]]
        row[f"{name}_recall"] = round(
            float(
                np.mean(
                    [
                        len(np.intersect1d(*pair)) / K
                        for pair in zip(found[name], found["exact"], strict=True)
                    ]
                )
            ),
            4,
        )
    for name in ("predict_top_k", "saved_model"):
        row[f"{name}_times_as_fast"] = round(row["exact_ms"] / row[f"{name}_ms"], 2)
    return row | {
        "samples": len(singles),
        "in_turn": IN_TURN,
        "different_classes": len(np.unique(found["exact"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trained-by", choices=["lsh", "sampled"], default="lsh")
    parser.add_argument("--steps", type=int, default=3800, help="of training")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument(
        "--inference", choices=["sparse", "sketch"], help="default: one, then the other"
    )
    parser.add_argument("--oversample", type=float, nargs="+", default=[1, 4])
    parser.add_argument("--sketch-active", type=int, nargs="+", help="of the sketch")
    parser.add_argument("--cells", type=int, help="default: the layer's")
    parser.add_argument("--rank", type=int, help="default: the layer's")
    parser.add_argument("--quick", action="store_true", help="a small case, briefly")
    parser.add_argument("--out", help="file to add the row to, besides stdout")
    options = parser.parse_args()
    run = TRAINED[options.trained_by, options.quick]
    if options.quick:
        options.steps, options.samples = 20, 10
    train_set, test_set = extreme.load(run.data, None)
    trained = extreme.make_model(run, train_set)
    data = train_set.dataset(run.batch, seed=0, epochs=None)
    trained.fit(
        data, steps_per_epoch=options.steps, callbacks=run.callbacks(), verbose=2
    )
    precision = extreme.precision(extreme.exact_top(trained, run), test_set)
    singles = [x for x, _ in test_set.dataset(1).take(options.samples)]
    sketch_active = options.sketch_active or SKETCH_ACTIVE[options.quick]
    cases = [("sparse", ACTIVE[options.quick], o) for o in options.oversample]
    cases += [("sketch", active, 1.0) for active in sketch_active]
    for inference, active, oversample in cases:
        if options.inference not in (None, inference):
            continue
        run = extreme.Run(
            run.data,
            "lsh",
            active=active,
            oversample=oversample,
            cells=options.cells,
            rank=options.rank,
        )
        if inference == "sketch":
            model = with_weights(trained, run, train_set)
            model = keras_lsh.with_inference(model, "sketch")
        else:
            model = with_tables(trained, run, train_set)
        row = {
            "benchmark": "top_k",
            "features": train_set.features,
            "classes": train_set.labels,
            "inference": inference,
            "active": run.active,
            "oversample": oversample,
            **tables(model.layers[-1]),
            "k": K,
            "trained_by": options.trained_by,
            "trained_steps": options.steps,
            "precision": precision,
            **measure(model, singles),
            **machine.facts(seed=0),
        }
        print(json.dumps(row), flush=True)
        if options.out:
            with open(options.out, "a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
