"""What is learned of very many classes in how much time? Beside the full softmax.

    python benchmarks/accuracy/extreme_classes.py --data-dir DIR

Sparse features, 128 hidden ReLU units, an output for each class, batches of 128, 2
threads: LSHDense, Keras' Dense with the full softmax, `tf.nn.sampled_softmax_loss` in
the best form that was found, and classes drawn at random for each sample. All are
trained by LazyAdam, so that the output is what differs; each has the learning rate that
suits it best. `citeulike` reads `trn_X_Y.txt` and `tst_X_Y.txt` of DIR; the other sets
are made up: `synthetic` of 30,000 classes, `amazon_670k` at the shape of that set,
without the full softmax, tested several times an epoch on 2,000 samples.
"""

from typing import Any

import extreme
import figures
import numpy as np
import sweep
from extreme import Run, train

# By data set and name; found by trying: learning rates, counts, samplers, corrections.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "citeulike": {
        "full softmax": {
            "method": "full",
            "learning_rate": 4e-3,
            "final_rate": 0.02,
        },
        "LSHDense, 500 active": {
            "method": "lsh",
            "active": 500,
            "oversample": 1,
            "growth": 1.01,
            "learning_rate": 7e-3,
            "final_rate": 0.02,
        },
        "sampled softmax, 3500": {
            "method": "sampled",
            "active": 3500,
            "sampler": "log_uniform",
            "learning_rate": 6e-3,
            "final_rate": 0.05,
        },
        "sampled softmax, 1000": {
            "method": "sampled",
            "active": 1000,
            "sampler": "log_uniform",
            "learning_rate": 1e-2,
            "final_rate": 0.02,
        },
        "1000 at random for each sample": {"method": "uniform", "active": 1000},
    },
    "synthetic": {
        "full softmax": {
            "method": "full",
            "learning_rate": 8e-3,
            "final_rate": 0.02,
        },
        "LSHDense, 300 active": {
            "method": "lsh",
            "active": 300,
            "oversample": 1,
            "learning_rate": 8e-3,
            "final_rate": 0.02,
        },
        "sampled softmax, 3500": {
            "method": "sampled",
            "active": 3500,
            "sampler": "log_uniform",
            "learning_rate": 8e-3,
            "final_rate": 0.05,
        },
    },
    "amazon_670k": {
        "LSHDense, 8 a sample and 1500 at random, shared": {
            "method": "lsh",
            "active": 8,
            "oversample": 16,
            "shared": True,
            "explore": 1500,
            "every": 50,
            "learning_rate": 3e-2,
            "epochs": 1,
        },
        "sampled softmax, 3500": {
            "method": "sampled",
            "active": 3500,
            "learning_rate": 3e-2,
            "epochs": 1,
        },
        "sampled softmax, 3500, falling rate": {
            "method": "sampled",
            "active": 3500,
            "learning_rate": 3e-2,
            "epochs": 1,
            "final_rate": 0.1,
        },
        "LSHDense, shared, falling rate": {
            "method": "lsh",
            "active": 8,
            "oversample": 16,
            "shared": True,
            "explore": 1500,
            "every": 50,
            "learning_rate": 3e-2,
            "epochs": 1,
            "final_rate": 0.1,
        },
        "1000 at random for each sample": {
            "method": "uniform",
            "active": 1000,
            "learning_rate": 3e-2,
            "epochs": 1,
        },
    },
    "quick": {
        "full softmax": {"method": "full", "epochs": 2},
        "LSHDense, 100 active": {"method": "lsh", "active": 100, "epochs": 2},
        "sampled softmax, 100": {"method": "sampled", "active": 100, "epochs": 2},
    },
}
# Of the others one: they take long.
SEEDS = {"citeulike": 3}


def main() -> None:
    parser = sweep.options(__doc__, "extreme_classes", "where citeulike-t is")
    parser.add_argument(
        "--data",
        nargs="+",
        choices=SETTINGS,
        default=["citeulike", "synthetic"],
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data = ["quick"]
    seeds = {
        data: range(min(arguments.seeds, SEEDS.get(data, 1))) for data in arguments.data
    }
    runs = {
        (data, name, seed): Run(data, seed=seed, **of_run)
        for data in arguments.data
        for seed in seeds[data]
        for name, of_run in SETTINGS[data].items()
    }
    rows = dict(zip(runs, sweep.sweep(runs.values(), train, arguments), strict=True))
    panels: dict[str, dict[str, dict[Any, list[float]]]] = {}
    table: list[list[Any]] = []
    for data in arguments.data:
        for name in SETTINGS[data]:
            of_run = [rows[data, name, seed] for seed in seeds[data]]
            seconds = np.median([row["seconds"] for row in of_run], axis=0)
            first = np.array([row["precision"] for row in of_run])[:, :, 0]
            panels.setdefault(data, {})[name] = {
                float(second): list(values)
                for second, values in zip(seconds, first.T, strict=True)
            }
            # The first steps trace.
            step = 1000 * np.median(
                [np.diff(row["seconds"]) / row["steps"] for row in of_run]
            )
            for key in ("precision", "hashed"):
                if of_run[0][key]:
                    last = np.array([row[key][-1] for row in of_run])
                    table.append(
                        [
                            data,
                            name
                            + (" (as hashing finds them)" if key == "hashed" else ""),
                            of_run[0]["epochs"],
                            f"{seconds[-1]:.0f}",
                            f"{step:.0f}",
                            *(figures.percent(at_k) for at_k in last.T),
                        ]
                    )
    headings = ["data", "", "epochs", "seconds", "ms a step"]
    figures.write(
        arguments.rows,
        __doc__,
        headings + [f"P@{k}" for k in extreme.TOP],
        table,
        panels,
        "seconds of training, 2 threads",
        "precision (at 1 in the plot)",
        to_scale=True,
    )


if __name__ == "__main__":
    main()
