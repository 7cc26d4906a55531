"""What does the hash function do? Family and transform against recall and accuracy.

    python benchmarks/accuracy/hash_functions.py --data-dir DIR

Three hidden layers of 1000 ReLU units, 5 % active, three candidates per active neuron,
tables rebuilt every 10 steps.
"""

from typing import Any

import figures
import numpy as np
import sweep
from training import Run, train


def family(name: str, **arguments: Any) -> tuple[tuple[str, Any], ...]:
    return (("family", name), *arguments.items())


PAPER = {"bits": 6, "tables": 5, "probes": 10}
FAMILIES = {
    "k-means cells": family("KMeansCells"),
    "SimHash 6 bits, 5 tables, 10 probes": family("SimHash", **PAPER),
    "the same, Simple-LSH": family("SimHash", **PAPER, transform="simple_lsh"),
    "the same, Sign-ALSH": family("SimHash", **PAPER, transform="sign_alsh"),
    "the same, L2-ALSH": family("SimHash", **PAPER, transform="l2_alsh"),
    "the same, sparse directions": family("SimHash", **PAPER, directions="sparse"),
    "the same, principal subspace": family("SimHash", **PAPER, rank=16),
    "SimHash 256 bits, ranked by margins": family(
        "SimHash", bits=1, tables=256, probes=2
    ),
    "SimHash 256 bits, principal subspace": family(
        "SimHash", bits=1, tables=256, probes=2, rank=16
    ),
    "cross-polytope": family("CrossPolytope"),
    "cross-polytope, Simple-LSH": family("CrossPolytope", transform="simple_lsh"),
    "winner-take-all hash": family("WTAHash"),
    "densified winner-take-all hash": family("DensifiedWTAHash"),
    "random buckets": family("RandomBuckets"),
}
# These take ten times as long: they rank all neurons by 256 bits.
ONE_SEED = {name for name in FAMILIES if name.startswith("SimHash 256 bits")}


def main() -> None:
    parser = sweep.options(__doc__, "hash_functions")
    parser.add_argument("--data", default="fashion_mnist", metavar="NAME")
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    families = dict(FAMILIES)
    if arguments.quick:
        arguments.data, arguments.seeds, arguments.epochs = "rectangles/small", 1, 1
        families = dict(list(FAMILIES.items())[:2])
    runs = {
        name: [
            Run(
                arguments.data,
                "lsh",
                seed=seed,
                hashing=hashing,
                oversample=3.0,
                epochs=arguments.epochs,
            )
            for seed in range(1 if name in ONE_SEED else arguments.seeds)
        ]
        for name, hashing in families.items()
    }
    order = sorted((r for each in runs.values() for r in each), key=lambda r: r.seed)
    rows = dict(zip(order, sweep.sweep(order, train, arguments), strict=True))
    table = []
    for name, of_family in runs.items():
        found = [rows[run] for run in of_family]
        median = {
            key: np.median([row[key] for row in found], axis=0)
            for key in ("initial_recall", "recall", "auc", "correlation", "forward")
        }
        table.append(
            [
                name,
                *(
                    " ".join(f"{value:.2f}" for value in median[key])
                    for key in ("initial_recall", "recall", "auc", "correlation")
                ),
                figures.percent([row["accuracy"] for row in found]),
                f"{100 * median['forward']:.1f}",
            ]
        )
    figures.write(
        arguments.rows,
        __doc__,
        [
            "hash family, transform",
            "recall of the true top 5 %, at first",
            "trained",
            "AUC",
            "rank correlation",
            "accuracy",
            "multiplications at inference, % of Dense's",
        ],
        table,
        {},
        "",
    )


if __name__ == "__main__":
    main()
