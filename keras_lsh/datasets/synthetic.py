"""Made-up sets for extreme classification that can be learned, at any scale."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_lsh._arguments import check_argument, is_finite, is_integer
from keras_lsh.datasets._random import PowerLaw, check_positive, check_seed
from keras_lsh.datasets.xc_data import XCData, l2_normalized

# Samples that are drawn at a time, from one stream of random numbers.
_BLOCK = 8192
# A sample is drawn as many labels as the greater of two draws from 1 to this.
_MOST_LABELS = 9
# How likely a label comes from the topic of its sample, not from any.
_ON_TOPIC = 0.9
# A topic's features are shared by its labels: so many, for each that a label takes.
_POOL = 8
# Exponents of the power laws: of topics, of labels in a topic, of the features that
# labels are known by, and of features that are noise.
_TOPIC_EXPONENT = 0.5
_LABEL_EXPONENT = 0.5
_FEATURE_EXPONENT = 0.5
_NOISE_EXPONENT = 1.0
# Inverse document frequencies are rounded to such parts, which makes sums of their
# squares exact.
_STEPS = 64
# Streams of random numbers: of the structure, and of the two sets of samples.
_STRUCTURE, _TRAIN, _TEST = range(3)


@dataclasses.dataclass(frozen=True)
class _Structure:
    """What the samples of a set have in common.

    Attributes:
        characteristic: int32 `(labels, features_per_label)`, features of each label.
        label_ids: int64 `(labels,)`, the id of each label; labels of a topic lie side
            by side before.
        feature_ids: int64 `(features,)`, the id of each feature by frequency as noise.
        topic_starts: int64 `(topics + 1,)`, in the order before `label_ids`.
        topic, label, noise: laws of topics, of labels in a topic, of noise.
        rarity: int64 `(features,)`, inverse document frequency by id, in 64ths.
    """

    characteristic: np.ndarray
    label_ids: np.ndarray
    feature_ids: np.ndarray
    topic_starts: np.ndarray
    topic: PowerLaw
    label: PowerLaw
    noise: PowerLaw
    rarity: np.ndarray


def synthetic_xc(
    *,
    features: int,
    labels: int,
    train_samples: int,
    test_samples: int,
    seed: int = 0,
    labels_per_topic: int = 64,
    features_per_label: int = 15,
    noise_features: int = 22,
    dropout: float = 0.35,
    missing: float = 0.1,
) -> tuple[XCData, XCData]:
    """Draws samples with sparse features and several labels each, from given topics.

    * Labels form topics, whose frequencies follow a power law, as do those of labels
      in a topic: most labels are rare.
    * A label is known by some features: half of them from a pool that the labels of its
      topic share, so that these are hard to tell apart; half from all features, by a
      power law.
    * A sample has a topic and 1 to 9 labels, nine in ten of them from its
      topic. It has each of the features of each of these but for `dropout`, and
      `noise_features` draws from a power law over all.
    * Of these labels each is `missing` with that probability, as if nobody had thought
      of it, but at least one is there. No model can tell, so that the best precision
      at 1 is about `1 - missing`.
    * A value is the number of times that a feature was drawn, times the logarithm of
      its inverse frequency; a sample's values are then divided by their Euclidean norm.
    * Ids say nothing: topics, labels and features are numbered at random.

    The defaults are made for the shape of Amazon-670K: 75 features and 5.5 labels a
    sample, of 135,909 and 670,091. Sample `i` of a set does not depend on the number of
    samples, and the training set and the test set are drawn independently.

    Example:

    ```python
    train, test = keras_lsh.datasets.synthetic_xc(
        features=20_000, labels=30_000, train_samples=100_000, test_samples=10_000
    )
    model.fit(train.dataset(128, seed=0))
    ```

    Args:
        features, labels: how many there are.
        train_samples, test_samples: how many are drawn.
        seed: of everything, from 0 to 2**32 - 1.
        labels_per_topic: about as many; there is at least one topic.
        features_per_label: number of features that a label is known by.
        noise_features: draws of noise in a sample, 0 or more.
        dropout: how likely a sample lacks a feature of one of its labels, in [0, 1).
        missing: how likely it lacks a label that it has the features of, in [0, 1).

    Returns:
        `(train, test)`.
    """
    for name, value in {
        "features": features,
        "labels": labels,
        "train_samples": train_samples,
        "test_samples": test_samples,
        "labels_per_topic": labels_per_topic,
        "features_per_label": features_per_label,
    }.items():
        check_positive(name, value)
    check_argument(
        "noise_features",
        noise_features,
        is_integer(noise_features) and noise_features >= 0,
        "a non-negative integer",
    )
    for name, share in {"dropout": dropout, "missing": missing}.items():
        check_argument(
            name, share, is_finite(share) and 0 <= share < 1, "a number in [0, 1)"
        )
    check_seed(seed)
    structure = _structure(
        features,
        labels,
        max(1, labels // labels_per_topic),
        features_per_label,
        noise_features,
        dropout,
        np.random.RandomState([seed, _STRUCTURE]),
    )

    def draw(samples: int, stream: int) -> XCData:
        blocks = [
            _draw_block(
                structure,
                noise_features,
                dropout,
                missing,
                min(_BLOCK, samples - start),
                np.random.RandomState([seed, stream, start // _BLOCK]),
            )
            for start in range(0, samples, _BLOCK)
        ]
        sizes, indices, values, label_sizes, label_indices = (
            np.concatenate(each) for each in zip(*blocks, strict=True)
        )
        return XCData(
            features,
            labels,
            np.concatenate([[0], np.cumsum(sizes)]),
            indices,
            values,
            np.concatenate([[0], np.cumsum(label_sizes)]),
            label_indices,
        )

    return draw(train_samples, _TRAIN), draw(test_samples, _TEST)


def _structure(
    features: int,
    labels: int,
    topics: int,
    features_per_label: int,
    noise_features: int,
    dropout: float,
    random: np.random.RandomState,
) -> _Structure:
    topic_starts = np.arange(topics + 1) * labels // topics
    topic = PowerLaw(topics, _TOPIC_EXPONENT)
    label = PowerLaw(int(np.diff(topic_starts).max()), _LABEL_EXPONENT)
    known_by = PowerLaw(features, _FEATURE_EXPONENT)
    noise = PowerLaw(features, _NOISE_EXPONENT)

    shared = features_per_label // 2
    pools = known_by.draw((topics, max(1, _POOL * shared)), random)
    topic_of_label = np.repeat(np.arange(topics), np.diff(topic_starts))
    from_pool = random.randint(0, pools.shape[1], size=(labels, shared), dtype=np.int64)
    own = known_by.draw((labels, features_per_label - shared), random)
    feature_ids = random.permutation(features)
    # Two orders of features: those frequent as noise are not those that labels have.
    id_of_known = random.permutation(features)
    characteristic = id_of_known[
        np.concatenate([pools[topic_of_label[:, None], from_pool], own], axis=1)
    ].astype(np.int32)

    # How often a feature is drawn for a sample; places in topics of different sizes
    # and labels off topic are left out of the account.
    place = np.arange(labels) - topic_starts[topic_of_label]
    frequency = topic.probabilities[topic_of_label] * label.probabilities[place]
    frequency *= _mean_labels() * (1 - dropout)
    drawn = np.bincount(
        characteristic.ravel(),
        np.repeat(frequency, features_per_label),
        minlength=features,
    )
    drawn[feature_ids] += noise_features * noise.probabilities
    with np.errstate(divide="ignore"):
        rarity = np.clip(-np.log(drawn), 0.5, 16)
    return _Structure(
        characteristic,
        random.permutation(labels),
        feature_ids,
        topic_starts,
        topic,
        label,
        noise,
        np.rint(_STEPS * rarity).astype(np.int64),
    )


def _mean_labels() -> float:
    """The mean of the greater of two draws from 1 to `_MOST_LABELS`."""
    most = _MOST_LABELS
    return sum(n * (2 * n - 1) for n in range(1, most + 1)) / most**2


def _draw_block(
    structure: _Structure,
    noise_features: int,
    dropout: float,
    missing: float,
    count: int,
    random: np.random.RandomState,
) -> tuple[np.ndarray, ...]:
    """`(sizes, indices, values, label_sizes, label_indices)` of the first samples.

    All samples of a block are drawn, so that they do not depend on `count`.
    """
    features, labels = len(structure.rarity), len(structure.label_ids)
    shape = (_BLOCK, _MOST_LABELS)
    topic = structure.topic.draw(_BLOCK, random)
    # Where a label is off topic, another topic takes the place.
    off_topic = random.random_sample(shape) >= _ON_TOPIC
    topics = np.where(off_topic, structure.topic.draw(shape, random), topic[:, None])
    first = structure.topic_starts[topics]
    place = structure.label.draw(shape, random)
    label = first + place % (structure.topic_starts[topics + 1] - first)
    places = random.randint(1, _MOST_LABELS + 1, size=(_BLOCK, 2)).max(axis=1)
    used = np.arange(_MOST_LABELS) < places[:, None]
    used[count:] = False
    shown = used & (random.random_sample(shape) >= missing)
    shown[:count, 0] |= ~shown[:count].any(axis=1)
    keys = np.arange(_BLOCK)[:, None] * labels + label
    rows, label = np.divmod(np.unique(keys[used]), labels)
    label_rows, shown_label = np.divmod(np.unique(keys[shown]), labels)

    known_by = structure.characteristic[label]
    noise = structure.noise.draw((_BLOCK, noise_features), random)[:count]
    # Last, as there are as many as labels.
    kept = random.random_sample(known_by.shape) >= dropout
    keys = (rows[:, None] * features + known_by)[kept]
    noise_keys = np.arange(count)[:, None] * features + structure.feature_ids[noise]
    keys = np.concatenate([keys, noise_keys.ravel()])
    keys, times = np.unique(keys, return_counts=True)
    rows, indices = np.divmod(keys, features)
    sizes = np.bincount(rows, minlength=count)
    values = l2_normalized(
        np.concatenate([[0], np.cumsum(sizes)]),
        (times * structure.rarity[indices]).astype(np.float32),
    )
    # In the order of ids.
    label_keys = np.sort(label_rows * labels + structure.label_ids[shown_label])
    return (
        sizes,
        indices.astype(np.int32),
        values,
        np.bincount(label_rows, minlength=count),
        (label_keys % labels).astype(np.int32),
    )
