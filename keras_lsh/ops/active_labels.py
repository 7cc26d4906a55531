"""Labels among the active classes of a batch, in stock TensorFlow."""

from typing import NamedTuple

import tensorflow as tf

from keras_lsh.ops._checks import MAX_INT32


class ActiveLabels(NamedTuple):
    """What losses need to know of active classes and labels.

    "Unused" are the places of short rows. A graph leaves out what a loss does not take.
    What is alike for all samples may be of a batch of 1.
    """

    used: tf.Tensor  # bool [batch, active]
    is_label: tf.Tensor  # bool [batch, active]
    counts: tf.Tensor  # [batch, active], classes that each stands for; 0 if unused
    of_labels: tf.Tensor  # [batch, any], logits of the active labels; 0 in other places
    found: tf.Tensor  # bool [batch, any], which places of `of_labels` are of labels
    labels: tf.Tensor  # [batch], number of labels
    missing: tf.Tensor  # [batch], number of labels that are not active
    lowest: tf.Tensor  # [batch], the smallest logit, 0 where no label is missing
    has_active: tf.Tensor  # bool [batch], whether there are active classes


def active_labels(
    values: tf.Tensor,
    ids: tf.Tensor,
    labels: tf.Tensor,
    units: tf.Tensor,
    drawn: tf.Tensor | None = None,
) -> ActiveLabels:
    """Finds the labels.

    Args:
        values: float `[batch, active]`, the logits.
        ids: int32 `[batch or 1, active]`, ascending, -1 at the end if unused.
        labels: int32 `[batch, any]`, -1 if unused.
        units: The number of classes.
        drawn: bool `[batch or 1, active]`: those that, but for labels, stand for all
            classes that are neither active nor labels. None: each stands for itself.
    """
    used = ids >= 0
    has_active = tf.reduce_any(used, axis=-1)
    places, found = places_of(ids, labels)
    found = tf.logical_and(found, labels >= 0)
    # One place more, so that there is one where there are no active classes.
    of_labels = tf.gather(tf.pad(values, [[0, 0], [0, 1]]), places, batch_dims=1)
    is_label = contained(ids, labels)

    def number(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.cast(x, values.dtype), axis=-1)

    num_labels = number(labels >= 0)
    missing = num_labels - number(found)
    counts = tf.cast(used, values.dtype)
    if drawn is not None:
        by_chance = tf.logical_and(drawn, used)
        by_chance = tf.logical_and(by_chance, tf.logical_not(is_label))
        number_drawn = number(by_chance)
        certain = number(used) - number_drawn + missing
        rest = tf.cast(units, values.dtype) - certain
        stands_for = rest / tf.maximum(number_drawn, 1)
        counts *= tf.where(by_chance, stands_for[:, tf.newaxis], 1.0)

    def least_used() -> tf.Tensor:
        infinity = tf.constant(float("inf"), values.dtype)
        lowest = tf.reduce_min(tf.where(used, values, infinity), axis=-1)
        is_needed = tf.logical_and(has_active, missing > 0)
        return tf.where(is_needed, lowest, tf.zeros_like(lowest))

    # While training, as a rule, no label is missing, and it need not be known. It is a
    # stand-in: to learn from it would teach another class.
    lowest = tf.cond(
        tf.reduce_any(missing > 0), least_used, lambda: tf.zeros_like(missing)
    )
    return ActiveLabels(
        used=used,
        is_label=is_label,
        counts=counts,
        of_labels=tf.where(found, of_labels, 0.0),
        found=found,
        labels=num_labels,
        missing=missing,
        lowest=tf.stop_gradient(lowest),
        has_active=has_active,
    )


def places_of(ids: tf.Tensor, sought: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the sought ids stand in their rows.

    Args:
        ids: int32 `[batch, active]`, ascending, -1 at the end if unused; or
            `[1, active]`, the same for all rows.
        sought: int32 `[batch, any]`; -1 if unused.

    Returns:
        int32 `[batch, any]`, `active` or any other place for what is not there; and
        bool `[batch, any]`, whether it is there.
    """
    # One place more, so that whatever is sought has a place in its row.
    padded = tf.where(ids < 0, MAX_INT32, ids)
    padded = tf.pad(padded, [[0, 0], [0, 1]], constant_values=MAX_INT32)
    if ids.shape[0] == 1:
        places = tf.searchsorted(padded[0], tf.reshape(sought, [-1]))
        places = tf.reshape(places, tf.shape(sought))
        return places, tf.equal(tf.gather(padded[0], places), sought)
    places = tf.searchsorted(padded, sought)
    return places, tf.equal(tf.gather(padded, places, batch_dims=1), sought)


def contained(ids: tf.Tensor, sought: tf.Tensor) -> tf.Tensor:
    """Which of the ids are among the sought ones of their row.

    Args:
        ids: int32 `[batch, active]`, ascending, -1 at the end if unused; or
            `[1, active]`, the same for all rows.
        sought: int32 `[batch, any]`; -1 if unused.

    Returns:
        bool `[batch, active]`.
    """
    places, found = places_of(ids, sought)
    batch, active = tf.shape(sought)[0], tf.shape(ids)[1]
    rows = tf.broadcast_to(tf.range(batch)[:, tf.newaxis], tf.shape(places))
    hits = tf.scatter_nd(
        tf.stack([rows, places], axis=-1),
        tf.cast(found, tf.int32),
        tf.stack([batch, active + 1]),
    )
    return hits[:, :-1] > 0
