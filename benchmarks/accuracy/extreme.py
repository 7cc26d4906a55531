"""One training of one network with very many classes, for `extreme_classes.py`."""

import dataclasses
import functools
import pathlib
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_lsh
from keras_lsh import datasets, losses
from keras_lsh.labels import as_ids
from keras_lsh.selection.exact import largest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine

TOP = (1, 3, 5)
# Made-up sets: features, labels, training samples, test samples.
SYNTHETIC = {
    "quick": (1000, 2000, 12_800, 1000),
    "synthetic": (20_000, 30_000, 60_000, 6000),
    "amazon_670k": (135_909, 670_091, 490_449, 2000),
}
# Tests in an epoch, where there is more than one.
TESTS = {"amazon_670k": 8}


@dataclasses.dataclass(frozen=True)
class Run:
    """A network, its data and its training.

    Attributes:
        data: "citeulike", or a name in `SYNTHETIC`.
        method: "full": Keras' Dense and the softmax over all classes; "sampled": the
            softmax over the labels and classes that are drawn for each batch;
            "uniform": over classes drawn for each sample; "lsh": over those that hash
            tables find for each sample; "exact": over the truly hardest of each sample.
        active: classes of a sample, or drawn for a batch; 0 with "full".
        log_q: which logits are corrected for the probability of being drawn: "none";
            "all", as `tf.nn.sampled_softmax_loss` does it; or "negatives": labels are
            certain.
        sampler: of "sampled": "uniform" or "log_uniform" (by falling frequency).
        seed: of the weights and of the order of samples.
        epochs: passes over the training set.
        learning_rate: of `LazyAdam`, at the beginning.
        final_rate: the share of it that is left at the end; it falls as a cosine.
        every: steps from one rebuild of the tables to the next.
        growth: the factor by which these grow at each.
        hidden: ReLU units of the hidden layer.
        deviation: standard deviation of its initial weights.
        batch: samples a step.
        oversample: candidates for each active class of "lsh"; None: the layer's own
            default.
        cells: of the layer's `KMeansCells`; None: the layer's own default.
        rank: principal directions of these; None: likewise.
        shared: whether each sample of "lsh" computes the active classes of its batch.
        explore: the share of the active classes of "lsh" that is drawn at random, with
            `shared` their number in a batch; with `log_q` these stand for all that are
            not active.
    """

    data: str
    method: str
    active: int = 0
    log_q: str = "none"
    sampler: str = "uniform"
    seed: int = 0
    epochs: int = 5
    learning_rate: float = 2e-3
    final_rate: float = 1.0
    every: int = 5
    growth: float = 1.0
    hidden: int = 128
    deviation: float = 0.3
    batch: int = 128
    oversample: float | None = None
    cells: int | None = None
    rank: int | None = None
    shared: bool = False
    explore: float = 0

    def callbacks(self) -> list[keras.callbacks.Callback]:
        if self.method != "lsh":
            return []
        return [keras_lsh.RebuildTables(self.every, self.growth)]

    def __str__(self) -> str:
        fields = dataclasses.fields(self)
        said = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields
            if field.name in ("data", "method", "seed")
            or getattr(self, field.name) != field.default
        ]
        return " ".join(said)


class FullSoftmax(keras.losses.Loss):
    """Cross-entropy of the softmax over all classes, a sample's labels alike."""

    def __call__(self, y: Any, logits: tf.Tensor, sample_weight: Any = None) -> Any:
        ids = as_ids(y, logits.shape[1])
        is_label = tf.cast(ids >= 0, tf.float32)
        of_labels = tf.gather(logits, tf.maximum(ids, 0), batch_dims=1) * is_label
        target = tf.reduce_sum(of_labels, 1) / tf.reduce_sum(is_label, 1)
        return tf.reduce_mean(tf.reduce_logsumexp(logits, 1) - target)


class SampledSoftmax(keras.Model):
    """`tf.nn.sampled_softmax_loss` for any number of labels a sample.

    The samplers and, where there is one label, the loss are those of the function,
    which wants equally many labels of each sample; here they share the target alike.
    Labels do not count among the drawn classes. Source: Jean et al. 2015.
    """

    def __init__(self, run: Run, features: int, frequencies: np.ndarray):
        super().__init__()
        self.run = run
        self.hidden = first_layer(run)
        self.classes = len(frequencies)
        # A class's rank by frequency, and the class of a rank.
        self.class_of = np.argsort(-frequencies, kind="stable")
        if run.sampler == "uniform":
            self.class_of = np.arange(self.classes)
        self.rank_of = np.empty_like(self.class_of)
        self.rank_of[self.class_of] = np.arange(self.classes)
        self.kernel = self.add_weight(
            shape=(self.classes, run.hidden), initializer=_transposed_glorot
        )
        self.bias = self.add_weight(shape=(self.classes,), initializer="zeros")
        self.build((None, features))

    def build(self, shape: Any) -> None:
        self.hidden.build(shape)
        self.built = True

    def call(self, x: Any) -> tf.Tensor:
        return self.hidden(x)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, *_: Any, **__: Any
    ) -> tf.Tensor:
        ranks = tf.gather(self.rank_of, tf.cast(y.flat_values, tf.int64))
        draw = (
            tf.random.uniform_candidate_sampler
            if self.run.sampler == "uniform"
            else tf.random.log_uniform_candidate_sampler
        )
        drawn = draw(
            ranks[:, tf.newaxis],
            1,
            self.run.active,
            unique=True,
            range_max=self.classes,
        )
        return tf.reduce_mean(self.losses_of(y, y_pred, drawn))

    def losses_of(self, y: tf.RaggedTensor, hidden: tf.Tensor, drawn: Any) -> tf.Tensor:
        """The loss of each sample, `[batch]`.

        Args:
            y: labels, `[batch, None]`.
            hidden: `[batch, hidden]`.
            drawn: what a sampler of TensorFlow gives for the ranks of the labels:
                drawn ranks, expected counts of the labels and of the drawn ones.
        """
        labels, samples = tf.cast(y.flat_values, tf.int64), y.value_rowids()
        ranks, label_counts, counts = drawn
        ids = tf.concat([tf.gather(self.class_of, ranks), labels], axis=0)
        rows = tf.nn.embedding_lookup(self.kernel.value, ids)
        bias = tf.nn.embedding_lookup(self.bias.value, ids)
        number = self.run.active
        logits = tf.matmul(hidden, rows[:number], transpose_b=True) + bias[:number]
        of_labels = tf.reduce_sum(tf.gather(hidden, samples) * rows[number:], axis=1)
        of_labels += bias[number:]
        if self.run.log_q != "none":
            logits -= tf.math.log(counts)
        if self.run.log_q == "all":
            of_labels -= tf.math.log(label_counts[:, 0])
        target = tf.math.segment_mean(of_labels, samples)
        label_ranks = tf.gather(self.rank_of, labels)[:, tf.newaxis]
        hits, at, _ = tf.nn.compute_accidental_hits(label_ranks, ranks, 1)
        places = tf.stack([tf.gather(samples, hits), at], axis=1)
        nothing = tf.fill(tf.shape(at), logits.dtype.min)
        logits = tf.tensor_scatter_nd_update(logits, places, nothing)
        largest_ = tf.maximum(
            tf.reduce_max(logits, axis=1), tf.math.segment_max(of_labels, samples)
        )
        largest_ = tf.stop_gradient(largest_)
        total = tf.reduce_sum(tf.exp(logits - largest_[:, tf.newaxis]), axis=1)
        of_labels -= tf.gather(largest_, samples)
        total += tf.math.segment_sum(tf.exp(of_labels), samples)
        return tf.math.log(total) + largest_ - target


def _transposed_glorot(shape: Any, dtype: Any = None) -> Any:
    glorot = keras.initializers.GlorotUniform()
    return tf.transpose(glorot(tuple(shape)[::-1], dtype=dtype))


def first_layer(run: Run) -> keras.layers.Layer:
    return keras_lsh.SparseInputDense(
        run.hidden,
        "relu",
        kernel_initializer=keras.initializers.RandomNormal(stddev=run.deviation),
    )


@functools.lru_cache(maxsize=1)
def load(name: str, directory: str | None) -> tuple[Any, Any]:
    """The training and the test set; samples without labels are left out."""
    if name in SYNTHETIC:
        features, labels, train, test = SYNTHETIC[name]
        sets = datasets.synthetic_xc(
            features=features, labels=labels, train_samples=train, test_samples=test
        )
    else:
        if directory is None:
            sys.exit(f"--data-dir: where trn_X_Y.txt and tst_X_Y.txt of {name} are")
        sets = tuple(
            datasets.read_xc(
                pathlib.Path(directory) / f"{part}_X_Y.txt", normalize="l2"
            )
            for part in ("trn", "tst")
        )
    train, test = (
        data.take(np.flatnonzero(np.diff(data.label_indptr) > 0)) for data in sets
    )
    return train, test


def optimizer(run: Run, train: Any) -> keras_lsh.LazyAdam:
    rate: Any = run.learning_rate
    if run.final_rate != 1.0:
        steps = run.epochs * train.steps_per_epoch(run.batch)
        rate = keras.optimizers.schedules.CosineDecay(
            run.learning_rate, steps, alpha=run.final_rate
        )
    return keras_lsh.LazyAdam(rate)


def make_model(run: Run, train: Any) -> keras.Model:
    keras.utils.set_random_seed(run.seed)
    if run.method == "sampled":
        frequencies = np.bincount(train.label_indices, minlength=train.labels)
        model = SampledSoftmax(run, train.features, frequencies)
        model.compile(optimizer(run, train))
        return model
    features = keras.Input((train.features,), sparse=True, dtype="float32")
    if run.method == "full":
        model = keras.Sequential(
            [features, first_layer(run), keras.layers.Dense(train.labels)]
        )
        model.compile(optimizer(run, train), FullSoftmax())
        return model
    settings: dict[str, Any] = {}
    if run.method != "lsh":
        selection = "random" if run.method == "uniform" else run.method
        settings = {"selection": selection, "inference": "exact"}
    else:
        settings = {
            "oversample": run.oversample,
            "shared": run.shared,
            "explore": run.explore,
        }
        if run.cells or run.rank:
            settings["hashing"] = keras_lsh.KMeansCells(run.cells, rank=run.rank)
    output = keras_lsh.LSHDense(
        train.labels,
        active=run.active,
        output="sparse",
        force_labels=True,
        **settings,
    )
    model = keras_lsh.LSHSequential([features, first_layer(run), output])
    loss = losses.ActiveSoftmaxCrossentropy(
        log_q=None if run.log_q == "none" else "uniform"
    )
    model.compile(optimizer(run, train), loss)
    return model


def train(run: Run, directory: str | None, verbose: int = 0) -> dict[str, Any]:
    """Trains and tests, after each epoch or more often (`TESTS`).

    Returns:
        A row for a file of results: the fields of the run, `steps` from one test to
        the next and, by test, `seconds` of training so far (tracing and rebuilds
        included, testing not), `precision` at 1, 3 and 5 on the whole test set with all
        outputs computed, and, of "lsh", `hashed`: the same of the labels that hashing
        finds.
    """
    train_set, test_set = load(run.data, directory)
    model = make_model(run, train_set)
    # Otherwise Keras traces a step twice; LSHSequential does it by itself.
    model.optimizer.build(model.trainable_variables)
    tests = TESTS.get(run.data, 1)
    steps = train_set.steps_per_epoch(run.batch) // tests
    callbacks = run.callbacks()
    row: dict[str, Any] = dataclasses.asdict(run)
    row |= {"seconds": [], "precision": [], "hashed": []}
    top = exact_top(model, run)
    seconds = 0.0
    for number in range(run.epochs * tests):
        data = train_set.dataset(
            run.batch, seed=run.seed, epochs=None, start_step=number * steps
        )
        start = time.perf_counter()
        model.fit(
            data, steps_per_epoch=steps, epochs=1, callbacks=callbacks, verbose=verbose
        )
        seconds += time.perf_counter() - start
        row["seconds"].append(round(seconds, 2))
        row["precision"].append(precision(top, test_set))
        if run.method == "lsh":
            row["hashed"].append(precision(hashed_top(model), test_set))
        print(
            f"  {(number + 1) / tests:g} epochs: {seconds:.1f} s, "
            f"P@1 {row['precision'][-1][0]}",
            flush=True,
        )
    row["accuracy"] = max(p[0] for p in row["precision"])
    row["steps"] = steps
    return row | machine.facts(run.seed)


def exact_top(model: keras.Model, run: Run) -> Any:
    """A function from inputs to the classes of the largest logits, largest first."""
    if run.method == "sampled":
        hidden, kernel, bias = model.hidden, model.kernel, model.bias
    else:
        hidden, output = model.layers
        kernel, bias = output.kernel, output.bias

    @tf.function(reduce_retracing=True)
    def top(x: Any) -> tf.Tensor:
        rows = tf.transpose(kernel.value) if run.method == "full" else kernel.value
        return largest(hidden(x), rows, bias.value, max(TOP))[1]

    return top


def hashed_top(model: keras.Model) -> Any:
    return lambda x: model.predict_top_k(x, max(TOP), batch_size=512)[0]


def precision(top: Any, test_set: Any) -> list[float]:
    """P@1, P@3 and P@5."""
    hits = np.zeros(max(TOP))
    for x, y in test_set.dataset(512):
        ids = np.asarray(top(x))
        for found, labels in zip(ids, y.to_list(), strict=True):
            hits += np.isin(found, labels)
    return [round(float(hits[:k].sum() / k / len(test_set)), 4) for k in TOP]
