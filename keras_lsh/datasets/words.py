"""Texts as ids of words, and the pairs of words that word2vec learns from.

Mikolov et al., "Distributed Representations of Words and Phrases and their
Compositionality", NIPS 2013.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh._arguments import check_argument, is_finite, is_integer
from keras_lsh.datasets._prefetch import made_ahead
from keras_lsh.datasets._random import PowerLaw, check_positive, check_seed

_WORD = re.compile("[a-z]+(?:'[a-z]+)?")
# Characters of text that are split into words at a time.
_BLOCK = 1 << 22
# Places of the text that make pairs at a time, from one stream of random numbers.
_CHUNK = 1 << 17
# The synthetic text: how many words of a document are of its topic, and words in it.
_ON_TOPIC = 0.6
_DOCUMENT = 256
# Zipf's law.
_ZIPF_EXPONENT = 1.0
# Streams of random numbers: of subsampling, and of a chunk's windows and order.
_SUBSAMPLING, _PAIRS = range(2)


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The words of a text, from the most frequent one.

    Attributes:
        words: each word's id is its place here.
        counts: int64 `(words,)`, how often each occurs in the text.
    """

    words: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of(
        cls, words: Iterable[str], *, size: int | None = None, min_count: int = 1
    ) -> Vocabulary:
        """Counts the words of a text.

        Args:
            words: the text. Words of the same frequency are in alphabetical order.
            size: number of words to keep, the most frequent ones; None: all.
            min_count: words that occur less often are left out.
        """
        if size is not None:
            check_positive("size", size)
        check_positive("min_count", min_count)
        counted = collections.Counter(words).items()
        kept = sorted(
            (item for item in counted if item[1] >= min_count),
            key=lambda item: (-item[1], item[0]),
        )[:size]
        return cls(
            tuple(word for word, _ in kept),
            np.array([count for _, count in kept], np.int64),
        )

    def __len__(self) -> int:
        """The number of words."""
        return len(self.words)

    def ids(self, words: Iterable[str]) -> np.ndarray:
        """The ids of a text's words, int32 `(any,)`; unknown words are left out."""
        id_of = {word: number for number, word in enumerate(self.words)}
        ids = np.fromiter((id_of.get(word, -1) for word in words), np.int32)
        return ids[ids >= 0]


def read_words(path: str | os.PathLike[str]) -> Iterator[str]:
    """The words of a text: letters from a to z, in lower case, also "don't" as one.

    Args:
        path: a text in UTF-8; or a tar archive, plain or compressed, of such texts,
            which are read in the order of the archive.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a text is not UTF-8, or an archive is damaged.
    """
    path = os.fspath(path)
    if not tarfile.is_tarfile(path):
        with open(path, "rb") as file:
            yield from _words_of(file, path)
        return
    try:
        # As a stream: going back in a compressed archive means to start again.
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                text = archive.extractfile(member)
                if text is not None:
                    yield from _words_of(text, f"{path}: {member.name}")
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a tar archive, this one is damaged or cut off. "
            f"Received: {error}"
        ) from error


def _words_of(file: Any, name: str) -> Iterator[str]:
    # By lines, as no word goes over the end of one.
    while lines := file.readlines(_BLOCK):
        try:
            text = b"".join(lines).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}: expected a text in UTF-8. Received: {error}"
            ) from error
        yield from _WORD.findall(text.lower())


def synthetic_words(
    tokens: int, vocabulary: int, *, topics: int | None = None, seed: int = 0
) -> tuple[np.ndarray, Vocabulary]:
    """Draws a text in which words of one topic occur near each other.

    The text is made of documents of 256 words. Each document has one of the topics; six
    in ten of its words are of the topic, by Zipf's law, the others of any, again by
    Zipf's law. A word is called `topic3_word7`, so that the neighbours of its vector
    show what was learned.

    Args:
        tokens: number of words in the text.
        vocabulary: number of different words that it is drawn from; those that do not
            occur have a count of 0.
        topics: number of topics that the vocabulary is divided into, up to its size;
            None: one for 100 words.
        seed: from 0 to 2**32 - 1.

    Returns:
        `(ids, vocabulary)`: int32 `(tokens,)`, and the words, the most frequent first.
    """
    check_positive("tokens", tokens)
    check_positive("vocabulary", vocabulary)
    if topics is None:
        topics = max(1, vocabulary // 100)
    check_positive("topics", topics)
    check_argument(
        "topics", topics, topics <= vocabulary, f"at most vocabulary={vocabulary}"
    )
    check_seed(seed)
    random = np.random.RandomState(seed)
    anywhere = PowerLaw(vocabulary, _ZIPF_EXPONENT)
    starts = np.arange(topics + 1) * vocabulary // topics
    in_topic = PowerLaw(int(np.diff(starts).max()), _ZIPF_EXPONENT)
    frequent_first = random.permutation(vocabulary)
    blocks = []
    for start in range(0, tokens, _CHUNK):
        topic = np.repeat(
            random.randint(0, topics, size=_CHUNK // _DOCUMENT), _DOCUMENT
        )
        place = in_topic.draw(_CHUNK, random) % (starts[topic + 1] - starts[topic])
        words = np.where(
            random.random_sample(_CHUNK) < _ON_TOPIC,
            starts[topic] + place,
            frequent_first[anywhere.draw(_CHUNK, random)],
        )
        blocks.append(words[: tokens - start])
    text = np.concatenate(blocks)
    counts = np.bincount(text, minlength=vocabulary)
    order = np.argsort(-counts, kind="stable")
    id_of = np.empty(vocabulary, np.int32)
    id_of[order] = np.arange(vocabulary, dtype=np.int32)
    topic_of = np.searchsorted(starts, order, side="right") - 1
    words = tuple(
        f"topic{topic}_word{place}"
        for topic, place in zip(
            topic_of.tolist(), (order - starts[topic_of]).tolist(), strict=True
        )
    )
    return id_of[text], Vocabulary(words, counts[order].astype(np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class SkipGrams:
    """Pairs of words that occur near each other, as word2vec's skip-gram learns from.

    In each epoch an occurrence of word `w` is left out with probability
    `1 - sqrt(subsample / f(w))`, `f(w)` the share of `w` in the text (Mikolov et al.
    2013, equation 5). Of those that stay, each is paired with the ones at most `b`
    places before and after it, `b` drawn from 1 to `window` for each.

    Pairs come in random order: the text is cut into pieces of 131,072 words, after
    subsampling, whose order is random, as is that of the pairs of each. What an epoch
    holds depends on nothing but the text, the arguments here and the epoch's number.

    Attributes:
        ids: the text, integers `(any,)` in `[0, len(counts))`.
        counts: integers `(words,)`, how often each word occurs; `Vocabulary.counts`,
            also where `ids` is a part of the text.
        window: the greatest distance of the words of a pair.
        subsample: the share from which on a word is left out at times, positive; None:
            no word is left out. 1e-5 in the paper, for a text of a billion words.
        seed: from 0 to 2**32 - 1.

    Raises:
        ValueError: if an argument is invalid.
    """

    ids: np.ndarray
    counts: np.ndarray
    window: int = 5
    subsample: float | None = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        ids, counts = np.asarray(self.ids), np.asarray(self.counts)
        for name, array in (("ids", ids), ("counts", counts)):
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(
                    f"Received an invalid value for `{name}`, expected a "
                    "one-dimensional array of integers. "
                    f"Received: shape={array.shape}, dtype={array.dtype}"
                )
        if ids.size and not (ids.min() >= 0 and ids.max() < counts.size):
            raise ValueError(
                "Received an invalid value for `ids`, expected integers in "
                f"[0, {counts.size}). Received: from {ids.min()} to {ids.max()}"
            )
        if counts.size and (counts.min() < 0 or (counts[ids] == 0).any()):
            raise ValueError(
                "Received an invalid value for `counts`, expected non-negative "
                "integers, positive for words of the text."
            )
        check_positive("window", self.window)
        check_argument(
            "subsample",
            self.subsample,
            self.subsample is None
            or (is_finite(self.subsample) and self.subsample > 0),
            "a positive number or None",
        )
        check_seed(self.seed)
        object.__setattr__(self, "ids", ids.astype(np.int32, copy=False))
        object.__setattr__(self, "counts", counts.astype(np.int64, copy=False))

    def chunks(self, epoch: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All pairs of an epoch, a piece of the text at a time.

        Yields:
            `(centers, contexts)`, int32 `(any,)` each: a word, and one near it.
        """
        for chunk in self._open_chunks(epoch):
            yield chunk.pairs()

    def pairs(self, epoch: int = 0) -> int:
        """The number of pairs of an epoch, faster than making them."""
        return sum(chunk.size for chunk in self._open_chunks(epoch))

    def dataset(
        self, batch_size: int, *, epochs: int | None = None, start_step: int = 0
    ) -> tf.data.Dataset:
        """Batches of pairs for `fit`, which can be taken up again at any of them.

        Batches go on over the end of an epoch, so that all but the very last are full.
        Epochs differ slightly in their number of pairs.

        Example:

        ```python
        pairs = keras_lsh.datasets.SkipGrams(ids, vocabulary.counts, seed=0)
        model.fit(pairs.dataset(1024), epochs=5, steps_per_epoch=pairs.pairs() // 1024)
        ```

        Args:
            batch_size: pairs in a batch.
            epochs: how many times the data set goes over the text; None: no end.
            start_step: number of batches to leave out, counted from the first of
                epoch 0; their pairs are counted but not made.

        Returns:
            A `tf.data.Dataset` of `(centers, contexts)`, int32 `[batch]` each.
        """
        check_positive("batch_size", batch_size)
        if epochs is not None:
            check_positive("epochs", epochs)
        check_argument(
            "start_step",
            start_step,
            is_integer(start_step) and start_step >= 0,
            "a non-negative integer",
        )
        if len(self.ids) < 2:
            raise ValueError(
                "There are no pairs: the text is too short. "
                f"Received: {len(self.ids)} words"
            )

        def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            """Pairs of whole batches, as many at a time as there are."""
            skip = start_step * batch_size
            left_centers = left_contexts = np.zeros(0, np.int32)
            for epoch in itertools.count() if epochs is None else range(epochs):
                made = 0
                for chunk in self._open_chunks(epoch):
                    made += chunk.size
                    if chunk.size <= skip:
                        skip -= chunk.size
                        continue
                    centers, contexts = chunk.pairs()
                    centers = np.concatenate([left_centers, centers[skip:]])
                    contexts = np.concatenate([left_contexts, contexts[skip:]])
                    skip = 0
                    full = len(centers) - len(centers) % batch_size
                    if full:
                        yield centers[:full], contexts[:full]
                    left_centers, left_contexts = centers[full:], contexts[full:]
                if not made:
                    # Rather than to look for some in one epoch after another.
                    raise ValueError(
                        f"There are no pairs in epoch {epoch}: too few words stay. "
                        f"Received: subsample={self.subsample}, {len(self.ids)} words"
                    )
            if len(left_centers):
                yield left_centers, left_contexts

        spec = tf.TensorSpec([None], tf.int32)
        pieces = tf.data.Dataset.from_generator(batches, output_signature=(spec, spec))

        def split(centers: tf.Tensor, contexts: tf.Tensor) -> tf.data.Dataset:
            shape = [-1, tf.minimum(tf.size(centers), batch_size)]
            return tf.data.Dataset.from_tensor_slices(
                (tf.reshape(centers, shape), tf.reshape(contexts, shape))
            )

        return made_ahead(pieces.flat_map(split))

    def _open_chunks(self, epoch: int) -> Iterator[_Chunk]:
        """The pieces of the text in the order of the epoch, no pairs made yet."""
        random = np.random.RandomState([self.seed, epoch, _SUBSAMPLING])
        text = self._subsampled(random)
        for number in random.permutation(-(-len(text) // _CHUNK)):
            yield _Chunk(
                text,
                number * _CHUNK,
                self.window,
                np.random.RandomState([self.seed, epoch, _PAIRS, number]),
            )

    def _subsampled(self, random: np.random.RandomState) -> np.ndarray:
        """The words that stay in the text of an epoch."""
        if self.subsample is None:
            return self.ids
        # A product and a root: the same on every machine, as powers might not be.
        share = self.counts / max(1, self.counts.sum())
        stays = np.sqrt(self.subsample / np.maximum(share, self.subsample))
        kept = [
            part[random.random_sample(len(part)) < stays[part]]
            for part in (
                self.ids[start : start + _CHUNK]
                for start in range(0, len(self.ids), _CHUNK)
            )
        ]
        return np.concatenate([*kept, np.zeros(0, np.int32)])


class _Chunk:
    """The words from a place of the text on, with the windows drawn for them."""

    def __init__(
        self, text: np.ndarray, start: int, window: int, random: np.random.RandomState
    ) -> None:
        self._text = text
        self._random = random
        centers = np.arange(start, min(start + _CHUNK, len(text)))
        reach = random.randint(1, window + 1, size=_CHUNK)[: len(centers)]
        # Those of distance 1, then 2 and so on, each before and after the centers.
        self._centers, self._offsets = [], []
        for distance in range(1, window + 1):
            near = centers[reach >= distance]
            self._centers += [near[near >= distance], near[near < len(text) - distance]]
            self._offsets += [-distance, distance]
        self.size = sum(map(len, self._centers))

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """`(centers, contexts)` in random order."""
        order = self._random.permutation(self.size)
        centers = np.concatenate(self._centers)
        offsets = np.repeat(self._offsets, list(map(len, self._centers)))
        contexts = centers + offsets
        return self._text[centers[order]], self._text[contexts[order]]
