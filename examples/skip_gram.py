"""Learns word vectors: skip-gram with a softmax over the whole vocabulary.

    python examples/skip_gram.py                           # a synthetic text
    python examples/skip_gram.py --text novels.tar.xz

The text is one in UTF-8, or a tar archive of such. From a word, an output for each word
of the vocabulary says which others occur near it; of these, the `--active` are computed
that the hash tables find, the true one always among them. word2vec draws a few words at
random instead. At the end the nearest neighbours of some words are printed, and the
loss of pairs from the end of the text, which was held out, with all outputs computed.

Kill it whenever you like: the same command goes on, and ends as if nothing had been.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

# It imports TensorFlow without its greetings, so it comes first.
import resumable

# isort: split
import keras
import numpy as np
import tensorflow as tf

import keras_lsh
from keras_lsh import datasets

HELD_OUT = 0.02
"""The share of the text, at its end, that is not trained on."""
HELD_OUT_PAIRS = 20_000
"""At most so many pairs of it are tested."""
TESTED_AT_A_TIME = 256
NEIGHBOURS = 6
WORDS = ("london", "horse", "night", "mother", "ship", "money", "letter", "blue")
"""Whose neighbours are printed, as far as they are in the vocabulary."""

DEFAULTS = {
    "synthetic": [3_000_000, 20_000],
    "epochs": 1,
    "batch_size": 1024,
    "active": 300,
    "segment": 1500,
}
QUICK = {
    "synthetic": [30_000, 1000],
    "learning_rate": 1e-2,
    "subsample": 1e-3,
    "epochs": 1,
    "batch_size": 512,
    "active": 50,
    "segment": 150,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text",
        type=pathlib.Path,
        metavar="FILE",
        help="a text in UTF-8, or a tar archive of such, plain or compressed",
    )
    parser.add_argument(
        "--synthetic",
        type=resumable.positive,
        nargs=2,
        metavar=("WORDS", "VOCABULARY"),
        default=DEFAULTS["synthetic"],
        help="size of the text that is made up where there is no --text (default: "
        + " ".join(map(str, DEFAULTS["synthetic"]))
        + ")",
    )
    for name, default, what in (
        ("epochs", DEFAULTS["epochs"], "times that the text is gone over"),
        ("batch-size", DEFAULTS["batch_size"], "pairs of words in a batch"),
        ("active", DEFAULTS["active"], "outputs that a pair computes"),
        ("rebuild-every", 50, "steps between two rebuilds of the hash tables"),
        ("dimensions", 128, "of the word vectors"),
        ("window", 5, "the greatest distance of the words of a pair"),
        ("min-count", 5, "words that occur less often are left out"),
    ):
        parser.add_argument(
            f"--{name}",
            type=resumable.positive,
            default=default,
            metavar="N",
            help=f"{what} (default: %(default)s)",
        )
    for name, default, what in (
        ("learning-rate", 1e-3, ""),
        ("subsample", 1e-4, "share of the text from which on a word is thinned out "),
    ):
        parser.add_argument(
            f"--{name}",
            type=resumable.positive_number,
            default=default,
            metavar="NUMBER",
            help=f"{what}(default: %(default)s)",
        )
    parser.add_argument(
        "--words",
        nargs="+",
        metavar="WORD",
        help="words whose neighbours are printed (default: some of the vocabulary)",
    )
    resumable.add_arguments(
        parser, output="skip_gram_output", segment=DEFAULTS["segment"]
    )
    return resumable.parse(parser, QUICK)


def load_text(
    options: argparse.Namespace,
) -> tuple[datasets.SkipGrams, datasets.SkipGrams, datasets.Vocabulary]:
    """Returns `(training pairs, held-out pairs, vocabulary)`."""
    if options.text is None:
        ids, vocabulary = datasets.synthetic_words(
            *options.synthetic, seed=options.seed
        )
    else:
        vocabulary = datasets.Vocabulary.of(
            datasets.read_words(options.text), min_count=options.min_count
        )
        ids = vocabulary.ids(datasets.read_words(options.text))
    unknown = sorted(set(options.words or ()) - set(vocabulary.words))
    if unknown:
        raise ValueError(f"Not in the vocabulary: {', '.join(unknown)}")
    if not options.active <= len(vocabulary):
        raise ValueError(
            f"--active must be at most {len(vocabulary)}, the size of the vocabulary. "
            f"Received: {options.active}"
        )
    end = len(ids) - round(HELD_OUT * len(ids))
    train, held_out = (
        datasets.SkipGrams(
            part,
            vocabulary.counts,
            window=options.window,
            subsample=options.subsample,
            seed=options.seed,
        )
        for part in (ids[:end], ids[end:])
    )
    for pairs in (train, held_out):
        if not pairs.pairs():
            raise ValueError(f"The text is too short: {len(ids)} words.")
    return train, held_out, vocabulary


def make_model(words: int, options: argparse.Namespace) -> Any:
    keras.utils.set_random_seed(options.seed)
    model = keras_lsh.LSHSequential(
        [
            keras.Input((), dtype="int32"),
            keras.layers.Embedding(words, options.dimensions, name="vectors"),
            keras_lsh.LSHDense(
                words,
                active=options.active,
                output="sparse",
                force_labels=True,
                name="nearby",
            ),
        ],
        name="skip_gram",
    )
    model.compile(
        keras_lsh.LazyAdam(options.learning_rate),
        keras_lsh.losses.ActiveSoftmaxCrossentropy(),
    )
    return model


def held_out_loss(model: Any, pairs: datasets.SkipGrams) -> float:
    """The cross-entropy of held-out pairs, all outputs computed."""
    centers, contexts = next(pairs.chunks())
    centers, contexts = centers[:HELD_OUT_PAIRS], contexts[:HELD_OUT_PAIRS]
    nearby = model.get_layer("nearby")
    kernel, bias = (tf.convert_to_tensor(w) for w in (nearby.kernel, nearby.bias))
    total = 0.0
    for start in range(0, len(centers), TESTED_AT_A_TIME):
        part = slice(start, start + TESTED_AT_A_TIME)
        vectors = model.get_layer("vectors")(centers[part])
        logits = tf.matmul(vectors, kernel, transpose_b=True) + bias
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(contexts[part], logits)
        total += float(np.sum(losses, dtype=np.float64))
    return total / len(centers)


def neighbours(vectors: np.ndarray, words: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The other words with the largest cosines, `[words, NEIGHBOURS]`, and these."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = unit[words] @ unit.T
    cosines[np.arange(len(words)), words] = -np.inf
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
    return nearest, np.take_along_axis(cosines, nearest, axis=1)


def write_vectors(
    path: pathlib.Path, vectors: np.ndarray, vocabulary: datasets.Vocabulary
) -> None:
    """Writes the vectors in word2vec's binary format, which other tools read."""
    with resumable.replacing(path) as file:
        file.write(f"{len(vectors)} {vectors.shape[1]}\n".encode())
        for word, vector in zip(vocabulary.words, vectors, strict=True):
            file.write(f"{word} ".encode() + vector.astype("<f4").tobytes() + b"\n")


def main() -> None:
    options = parse_arguments()
    with resumable.directory(options.output, options.restart):
        train_and_report(options)


def train_and_report(options: argparse.Namespace) -> None:
    with resumable.reading():
        pairs, held_out, vocabulary = load_text(options)
    size = pairs.pairs()
    steps = max(1, options.epochs * size // options.batch_size)
    print(
        f"Text: {len(pairs.ids):,} words to train on, {len(vocabulary):,} different "
        f"ones, {size:,} pairs in the first epoch\n"
        f"Training: {steps:,} steps, batch {options.batch_size}, epochs: "
        f"{options.epochs}; {options.active:,} outputs of a pair are computed",
        flush=True,
    )
    model = make_model(len(vocabulary), options)
    history = resumable.train(
        model,
        lambda step: pairs.dataset(options.batch_size, start_step=step),
        steps=steps,
        segment=options.segment,
        rebuild_every=options.rebuild_every,
        output=options.output,
        identity={
            "data": resumable.digest(pairs.ids, pairs.counts),
            "epochs": options.epochs,
            "batch size": options.batch_size,
            "active": options.active,
            "dimensions": options.dimensions,
            "window": options.window,
            "subsample": options.subsample,
            "learning rate": options.learning_rate,
            "seed": options.seed,
        },
    )
    vectors = model.get_layer("vectors").embeddings.numpy()
    loss = held_out_loss(model, held_out)
    path = resumable.write_results(options.output, history, {"held-out loss": loss})
    write_vectors(options.output / "vectors.bin", vectors, vocabulary)

    id_of = {word: number for number, word in enumerate(vocabulary.words)}
    shown = options.words or [word for word in WORDS if word in id_of]
    shown = shown or list(vocabulary.words[:: -(-len(vocabulary) // len(WORDS))])
    print("\nNearest neighbours, with their cosines")
    nearest, cosines = neighbours(vectors, [id_of[word] for word in shown])
    for word, row, values in zip(shown, nearest, cosines, strict=True):
        near = ", ".join(
            f"{vocabulary.words[other]} {value:.2f}"
            for other, value in zip(row, values, strict=True)
        )
        print(f"  {word}: {near}")
    print(f"\nLoss of held-out pairs, over all {len(vocabulary):,} words: {loss:.4f}")
    print(f"Training step: {resumable.milliseconds(history):.1f} ms, rebuilds included")
    print(f"Figures: {path}\nVectors: {path.with_name('vectors.bin')}")


if __name__ == "__main__":
    resumable.run(main)
