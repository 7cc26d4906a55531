"""How fast are the best of very many classes found, one sample at a time?

    python benchmarks/top_k.py --out rows.jsonl

The network of `extreme_step.py` is trained for a while on a synthetic set at the shape
of Amazon-670K. Then the five classes with the largest logits are asked for, sample by
sample: by hashing (`predict_top_k`), by the endpoint of an exported SavedModel, and
exactly, by the product with the whole kernel and `tf.math.top_k` in one `tf.function`.
All take turns. One JSON row: median milliseconds and quartiles, ratios to the exact
one, and the recall of the true five on test samples.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import machine
import numpy as np
import tensorflow as tf
from extreme_step import QUICK, Case, make_model

import keras_lsh
from keras_lsh import datasets

K = 5


def train(case: Case, steps: int, verbose: int) -> tuple[Any, Any]:
    """The trained model and test samples."""
    train_set, test_set = datasets.synthetic_xc(
        features=case.features,
        labels=case.classes,
        train_samples=case.batch * steps,
        test_samples=1000,
    )
    model = make_model("lsh", case)
    model.fit(
        train_set.dataset(case.batch, seed=0),
        verbose=verbose,
        callbacks=[keras_lsh.RebuildTables(every=case.every)],
    )
    return model, test_set


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


def measure(case: Case, steps: int, samples: int, verbose: int) -> dict[str, Any]:
    model, test_set = train(case, steps, verbose)
    singles = [x for x, _ in test_set.dataset(1).take(samples)]
    with tempfile.TemporaryDirectory() as directory:
        found: dict[str, list[np.ndarray]] = {}
        times: dict[str, list[float]] = {}
        functions = searches(model, directory)
        for x in singles[:3]:  # the first calls trace
            for function in functions.values():
                function(x)
        for x in singles:
            for name, function in functions.items():
                start = time.perf_counter()
                ids = np.asarray(function(x))
                times.setdefault(name, []).append(1000 * (time.perf_counter() - start))
                found.setdefault(name, []).append(ids.reshape(-1))
    row: dict[str, Any] = {"benchmark": "top_k", **case._asdict(), "k": K}
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
    row |= {"trained_steps": steps, "samples": len(singles)}
    return row | machine.facts(seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="a small case, briefly")
    parser.add_argument("--out", help="file to add the row to, besides stdout")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    if options.quick:
        row = measure(QUICK, 20, 10, 1)
    else:
        row = measure(Case(), options.steps, options.samples, 1)
    print(json.dumps(row))
    if options.out:
        with open(options.out, "a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
