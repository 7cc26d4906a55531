"""Does skip-gram learn as much from a few outputs as from the whole vocabulary?

    python benchmarks/accuracy/skip_gram.py --data-dir DIR

Word vectors, and an output for each word of the vocabulary: Keras' Dense with the full
softmax beside LSHDense, trained on the same pairs of words of a slice of the text. Both
by LazyAdam, which for Dense's whole gradient is Adam; an output that is touched now and
then has a larger learning rate than one that moves at every step. The loss is that of
held-out pairs, with all outputs computed, for both alike. `novels` reads
`english-novels-100.tar.xz` of DIR: every word is in the vocabulary, the slice is its
beginning, and the held-out pairs are from what follows. Without DIR the text is made
up.
"""

import dataclasses
import functools
import pathlib
import sys
import time
from typing import Any

import figures
import keras
import numpy as np
import sweep
import tensorflow as tf

import keras_lsh
from keras_lsh import datasets, losses

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine

NOVELS = "english-novels-100.tar.xz"
# Made-up texts: words, different words.
SYNTHETIC = {"quick": (30_000, 1000), "synthetic": (3_000_000, 50_000)}
# Words after the slice, whose pairs are held out; and at most so many of these.
HELD_OUT = 100_000
HELD_OUT_PAIRS = 10_000
TESTED_AT_A_TIME = 500

# Learning rates found by trying.
SETTINGS: dict[str, dict[str, Any]] = {
    "full softmax": {"method": "full", "learning_rate": 1e-2},
    "LSHDense, 50 a pair and 3,000 at random": {
        "method": "lsh",
        "learning_rate": 3e-2,
    },
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A network, its text and its training.

    Attributes:
        data: "novels", or a name in `SYNTHETIC`.
        method: "full": Keras' Dense and the softmax over all words; "lsh".
        words: of the text that is trained on, from its beginning.
        active: outputs that "lsh" looks for, for each pair; a batch shares them.
        oversample: candidates for each of them.
        explore: outputs that are drawn at random for a batch, to stand for all others.
        seed: of the weights and of the pairs.
        tests: how often the held-out pairs are tested, evenly spaced.
        steps: from one test to the next.
        learning_rate: of `LazyAdam`.
        every: steps from one rebuild of the tables to the next.
        dimensions: of the word vectors.
        window: the greatest distance of the words of a pair.
        subsample: share of the text from which on a word is thinned out.
        batch: pairs a step.
    """

    data: str
    method: str
    words: int = 500_000
    active: int = 50
    oversample: float = 1
    explore: int = 3000
    seed: int = 0
    tests: int = 5
    steps: int = 100
    learning_rate: float = 5e-3
    every: int = 10
    dimensions: int = 128
    window: int = 5
    subsample: float = 1e-4
    batch: int = 256

    def callbacks(self) -> list[keras.callbacks.Callback]:
        return [keras_lsh.RebuildTables(self.every)] if self.method == "lsh" else []

    def __str__(self) -> str:
        return " ".join(
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if field.name in ("data", "method", "seed")
            or getattr(self, field.name) != field.default
        )


@functools.lru_cache(maxsize=1)
def load(name: str, directory: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The text as ids of words, and how often each word occurs."""
    if name in SYNTHETIC:
        ids, vocabulary = datasets.synthetic_words(*SYNTHETIC[name])
        return ids, vocabulary.counts
    if directory is None:
        sys.exit(f"--data-dir: where {NOVELS} is")
    words = list(datasets.read_words(pathlib.Path(directory) / NOVELS))
    vocabulary = datasets.Vocabulary.of(words)
    return vocabulary.ids(words), vocabulary.counts


def make_model(run: Run, words: int) -> keras.Model:
    keras.utils.set_random_seed(run.seed)
    first = [
        keras.Input((), dtype="int32"),
        keras.layers.Embedding(words, run.dimensions),
    ]
    if run.method == "full":
        model = keras.Sequential([*first, keras.layers.Dense(words)])
        loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        output = keras_lsh.LSHDense(
            words,
            active=run.active,
            oversample=run.oversample,
            output="sparse",
            force_labels=True,
            shared=True,
            explore=min(run.explore, words // 2),
        )
        model = keras_lsh.LSHSequential([*first, output])
        loss = losses.ActiveSoftmaxCrossentropy(
            log_q="uniform" if run.explore else None
        )
    model.compile(keras_lsh.LazyAdam(run.learning_rate), loss)
    return model


def train(run: Run, directory: str | None, verbose: int = 0) -> dict[str, Any]:
    """Trains and tests.

    Returns:
        A row for a file of results: the fields of the run and, by test, `seconds` of
        training so far (tracing and rebuilds included, testing not) and `losses`, the
        mean cross-entropies of held-out pairs; `loss` is the last one; `outputs`, words
        of the vocabulary.
    """
    ids, counts = load(run.data, directory)
    words = min(run.words, len(ids) * 9 // 10)
    train_pairs, held_out = (
        datasets.SkipGrams(
            part, counts, window=run.window, subsample=run.subsample, seed=run.seed
        )
        for part in (ids[:words], ids[words : words + HELD_OUT])
    )
    tested = tuple(part[:HELD_OUT_PAIRS] for part in next(held_out.chunks()))
    model = make_model(run, len(counts))
    callbacks = run.callbacks()
    row = dataclasses.asdict(run) | {"seconds": [], "losses": []}
    seconds = 0.0
    for number in range(run.tests):
        data = train_pairs.dataset(run.batch, start_step=number * run.steps)
        start = time.perf_counter()
        model.fit(data, steps_per_epoch=run.steps, callbacks=callbacks, verbose=verbose)
        seconds += time.perf_counter() - start
        row["seconds"].append(round(seconds, 2))
        row["losses"].append(held_out_loss(model, tested))
        print(
            f"  {(number + 1) * run.steps} steps: {seconds:.1f} s, loss "
            f"{row['losses'][-1]}",
            flush=True,
        )
    row["loss"] = row["losses"][-1]
    row["outputs"] = len(counts)
    return row | machine.facts(run.seed)


def held_out_loss(model: keras.Model, pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """The cross-entropy of pairs, all outputs computed."""
    vectors, output = model.layers
    kernel, bias = (tf.convert_to_tensor(w) for w in (output.kernel, output.bias))
    by_neuron = isinstance(output, keras_lsh.LSHDense)
    total = 0.0
    for start in range(0, len(pairs[0]), TESTED_AT_A_TIME):
        centers, contexts = (part[start : start + TESTED_AT_A_TIME] for part in pairs)
        logits = tf.matmul(vectors(centers), kernel, transpose_b=by_neuron) + bias
        of_pairs = tf.nn.sparse_softmax_cross_entropy_with_logits(contexts, logits)
        total += float(np.sum(of_pairs, dtype=np.float64))
    return round(total / len(pairs[0]), 4)


def main() -> None:
    parser = sweep.options(__doc__, "skip_gram", f"where {NOVELS} is")
    parser.set_defaults(seeds=1)
    arguments = parser.parse_args()
    data = "novels" if arguments.data_dir else "synthetic"
    smaller: dict[str, Any] = {}
    if arguments.quick:
        data, arguments.seeds = "quick", 1
        smaller = {"tests": 2, "steps": 20, "batch": 128}
    runs = {
        (name, seed): Run(data, seed=seed, **{**of_run, **smaller})
        for seed in range(arguments.seeds)
        for name, of_run in SETTINGS.items()
    }
    rows = dict(
        zip(
            runs,
            sweep.sweep(runs.values(), train, arguments, figure="loss"),
            strict=True,
        )
    )
    table = []
    full = np.median([_step(rows[key]) for key in runs if key[0] == "full softmax"])
    for name in SETTINGS:
        of_run = [rows[name, seed] for seed in range(arguments.seeds)]
        step = np.median([_step(row) for row in of_run])
        by_test = np.median([row["losses"] for row in of_run], axis=0)
        reference = np.median(
            [rows["full softmax", seed]["loss"] for seed in range(arguments.seeds)]
        )
        table.append(
            [
                name,
                *(f"{loss:.3f}" for loss in by_test),
                f"{100 * (by_test[-1] / reference - 1):+.1f} %",
                f"{np.median([row['seconds'][-1] for row in of_run]):.0f}",
                f"{step:.0f}",
                f"{full / step:.1f}",
            ]
        )
    row = rows["full softmax", 0]
    headings = [
        f"{row['outputs']:,} outputs, batch {row['batch']}",
        *(f"{row['steps'] * (n + 1)} steps" for n in range(row["tests"])),
        "against full",
        "seconds",
        "ms a step",
        "times as fast",
    ]
    figures.write(
        arguments.rows,
        __doc__,
        headings,
        table,
        {},
        "",
        "loss of held-out pairs",
        unit="nats",
    )


def _step(row: dict[str, Any]) -> float:
    """Milliseconds of a step; the first steps, which trace, do not count."""
    return 1000 * float(np.median(np.diff(row["seconds"]))) / row["steps"]


if __name__ == "__main__":
    main()
