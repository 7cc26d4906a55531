"""Cells of neurons that activate alike, learned from the neurons and their inputs."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing import subspace
from keras_lsh.hashing._config import integer
from keras_lsh.hashing.family import HashFamily, State, as_float

MAX_CELLS = 2**20  # of a table
MAX_PROBES = 32767  # of an input, in all tables together

# With more cells than this, neurons look for theirs in the nearest groups of cells
# only. Three of them hold the nearest cell of 98 % of the neurons.
_MANY_CELLS = 512
_NEAR_GROUPS = 3
_GROUPING_STEPS = 3

# Steps of Lloyd's algorithm in a refresh without inputs: a layer that is used as it was
# converted should be of use.
_FIRST_STEPS = 4


@keras.saving.register_keras_serializable("keras_lsh")
class KMeansCells(HashFamily):
    """Groups neurons that activate alike into cells, by k-means clustering.

    A cell is a bucket. An input looks into cells in the order of the activation that it
    would give to their centroids, so that the neurons of promising cells are its
    candidates. Unlike the buckets of random hash functions, cells adapt to the neurons
    and to the inputs, which gives several times the recall for the same work.

    Neurons are clustered by a distance that counts: the root mean square difference of
    their activations over the inputs. With the mean `mu` and the covariance
    `basis diag(scales**2) basis'` of the inputs (its `rank` principal directions), a
    neuron with weights `w` and bias `b` has the coordinates

        u = [scales * (basis' w); b + w . mu]

    and an input `x` has `z = [basis' (x - mu) / scales; 1]`. Then `u . z` is
    `w . x + b` but for what lies outside the principal directions, and, as `z` has mean
    square 1 in every direction, `|u - u'|` is the root mean square of `u . z - u' . z`.
    A cell with centroid `c` is worth `c . z`.

    Mean and covariance come from some inputs of each training step (a streaming
    subspace iteration with a Nyström approximation, Halko et al. 2011, "Finding
    Structure with Randomness", section 5.5), recent ones counting most. A refresh makes
    one step of Lloyd's algorithm: centroids move to the mean of their cells' neurons,
    neurons move to the nearest centroid, and a cell without neurons gets one that is
    far from its centroid. (Where there are more than 512 cells, these are grouped by
    k-means in turn, neurons move to the nearest centroid of the three groups nearest to
    them, and empty cells get neurons drawn at random, which splits large cells.) As
    neurons keep their cells in between, refreshes change little.

    A layer that has not been trained has seen no inputs. Until it has, all directions
    count the same, and `basis` holds those along which its neurons' weights are
    largest: little to go by in a new layer, and a fair guess where the weights come
    from a trained one. (The layers of a converted model can be shown inputs without
    being trained: call it on some batches with `training=True`, then `rebuild_tables()`
    of each, a few times.)

    Source: buckets from k-means as in inverted files, Jégou et al. 2011, "Product
    Quantization for Nearest Neighbor Search", section IV; for the largest inner
    products, Auvolat et al. 2015, "Clustering is Efficient for Approximate Maximum
    Inner Product Search". They cluster by Euclidean distance and by angle; the distance
    of activations is this package's.

    Cost: hashing an input takes `(input_dim + tables * cells) * rank` multiplications,
    a refresh about `units` times as many.

    Args:
        cells: Cells of a table, a positive integer; a layer makes at most one for each
            neuron. None: `16 * sqrt(units)`, the nearest multiple of 8, at most 4096.
        tables: Number of independent clusterings, from 1 to 1024. A neuron is ranked by
            the mean worth of its cells.
        probes: Cells that an input looks into per table, on average (all tables compete
            for them). None: all, so that no candidate is drawn at random.
        rank: Principal directions of the inputs that are told apart; positive integer,
            at most `input_dim` of them are used. None: 16; where there are very many
            neurons for each input, as in an output layer of many classes, a quarter of
            these, up to 64.
        seed: Seed of the first centroids and directions. Equal seeds give equal cells.

    Example:

    >>> keras_lsh.LSHDense(1000, hashing=KMeansCells(cells=200, rank=32))
    """

    def __init__(
        self,
        cells: int | None = None,
        tables: int = 1,
        probes: int | None = None,
        *,
        rank: int | None = None,
        seed: int = 0,
    ):
        self.cells = None if cells is None else integer("cells", cells, 1, MAX_CELLS)
        self.tables = integer("tables", tables, 1, 1024)
        most = self.cells or MAX_CELLS
        self.probes = None if probes is None else integer("probes", probes, 1, most)
        self.rank = None if rank is None else integer("rank", rank, 1, 2**16)
        self.seed = integer("seed", seed, 0, 2**63 - 1)
        if self.tables * (self.probes or self.cells or 1) > MAX_PROBES:
            raise ValueError(
                "Received invalid values for `tables` and `probes`, expected "
                f"tables * probes to be at most {MAX_PROBES} (where probes=None means "
                f"all cells). Received: tables={tables}, probes={probes}, cells={cells}"
            )

    def for_layer(self, input_dim: int, units: int) -> "KMeansCells":
        """With `cells`, `probes` and `rank` decided, and no more than can be."""
        input_dim = integer("input_dim", input_dim, 1, 2**31 - 1)
        units = integer("units", units, 1, 2**31 - 1)
        cells = self.cells or min(8 * round(2 * math.sqrt(units)), 4096)
        cells = min(max(cells, 1), units)
        probes = min(self.probes or max(1, MAX_PROBES // self.tables), cells)
        rank = self.rank or min(max(16, 8 * round(units / (32 * input_dim))), 64)
        return KMeansCells(
            cells, self.tables, probes, rank=min(rank, input_dim), seed=self.seed
        )

    @property
    def buckets(self) -> int:
        if self.cells is None:
            raise ValueError(
                f"How many cells {self!r} has is for a layer to say. See `for_layer`."
            )
        return self.cells

    def _rank(self, input_dim: int) -> int:
        if self.rank is None:
            raise ValueError(
                f"The rank of {self!r} is for a layer to say. See `for_layer`."
            )
        return min(self.rank, input_dim)

    def initial_state(self, input_dim: int, units: int) -> dict[str, np.ndarray]:
        """The state of a new layer.

        - the statistics of the inputs (see `subspace.initial_state`);
        - `centroids` `[tables, cells, rank + 1]`, in the coordinates of neurons;
        - `members` `[units, tables]`: the cell of each neuron; -1: none yet.
        """
        family = self.for_layer(input_dim, units)
        cells, rank = family.buckets, family._rank(input_dim)
        generator = np.random.default_rng(self.seed)
        statistics = subspace.initial_state(input_dim, rank, generator)
        # The first centroids are neurons, different ones for each table.
        members = np.full([units, self.tables], -1, np.int32)
        for table in range(self.tables):
            first = generator.permutation(units)[:cells]
            members[first, table] = np.arange(cells)
        return {
            **statistics,
            "centroids": np.zeros([self.tables, cells, rank + 1], np.float32),
            "members": members,
        }

    def observe(self, inputs: tf.Tensor, state: State) -> dict[str, tf.Tensor]:
        """Updates `mean` and `moments` with some of the inputs, evenly spaced."""
        return subspace.observe(inputs, state)

    def refresh(self, kernel: Any, bias: Any, state: State) -> dict[str, tf.Tensor]:
        """Follows the inputs with the coordinates, and the neurons with the cells."""
        changes = subspace.refresh(kernel, state)
        neurons = subspace.neuron_coordinates(kernel, bias, {**state, **changes})
        members = tf.convert_to_tensor(state["members"])
        shape = state["centroids"].shape

        def step(
            left: tf.Tensor, _: tf.Tensor, members: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            centroids = _centroids(neurons, members, shape)
            return left - 1, centroids, _nearest(neurons, centroids)

        # A loop, since a graph of all steps takes long to make.
        _, changes["centroids"], changes["members"] = tf.while_loop(
            lambda left, *_: left > 0,
            step,
            (
                tf.where(as_float("count", state) > 0.0, 1, _FIRST_STEPS),
                tf.zeros(shape),
                members,
            ),
        )
        return changes

    def neuron_codes(self, kernel: Any, bias: Any, state: State) -> tf.Tensor:
        neurons = subspace.neuron_coordinates(kernel, bias, state)
        return _nearest(neurons, as_float("centroids", state))

    def rehash(
        self, kernel: Any, bias: Any, state: State
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        changes = self.refresh(kernel, bias, state)
        return changes["members"], changes

    def follow(self, codes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"members": codes}

    def input_probes(
        self, inputs: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, tf.Tensor]:
        centroids = _flat_centroids(state)
        worth = subspace.worth_of_cells(inputs, centroids, state)
        cells = centroids.shape[0]
        probes = min(cells, self.tables * (self.probes or cells))
        if probes < cells:
            worth, best = tf.math.top_k(worth, probes)
            # Linear in the worth, so that the sum over tables ranks by the mean worth.
            return best, ops.rank_cells(worth)[1]
        return ops.rank_cells(worth)

    def select(
        self,
        inputs: tf.Tensor,
        state: State,
        offsets: Any,
        table_ids: Any,
        forced: tf.Tensor,
        active: int,
    ) -> tf.Tensor:
        """As of any family; one op where an input looks into all cells of one table."""
        selection = offsets, table_ids, forced, active
        if self.tables > 1 or (self.probes or self.buckets) < self.buckets:
            return super().select(inputs, state, *selection)
        centroids = _flat_centroids(state)
        return subspace.select_from_cells(inputs, centroids, state, *selection)

    def multiplications(self, input_dim: int) -> int:
        rank = self._rank(input_dim)
        return (input_dim + self.tables * self.buckets) * rank

    def observe_multiplications(self, input_dim: int, batch: int) -> int:
        rank = self._rank(input_dim)
        return subspace.observe_multiplications(input_dim, rank, batch)

    def refresh_multiplications(self, input_dim: int, units: int) -> int:
        """Those of the neurons' coordinates and distances, and of the directions."""
        rank = self._rank(input_dim)
        hashing = units * self.multiplications(input_dim)
        return hashing + subspace.refresh_multiplications(input_dim, rank)

    def get_config(self) -> dict[str, Any]:
        return {
            "cells": self.cells,
            "tables": self.tables,
            "probes": self.probes,
            "rank": self.rank,
            "seed": self.seed,
        }


def _flat_centroids(state: State) -> tf.Tensor:
    """The centroids of all tables, `[tables * cells, rank + 1]`."""
    centroids = as_float("centroids", state)
    return tf.reshape(centroids, [-1, centroids.shape[-1]])


def _centroids(neurons: tf.Tensor, members: tf.Tensor, shape: Any) -> tf.Tensor:
    """The means of the cells' neurons.

    Args:
        neurons: `[units, coordinates]`.
        members: int32 `[units, tables]`; -1: in no cell.
        shape: `(tables, cells, coordinates)`, the shape of the result.
    """
    _, cells, _ = shape
    units = neurons.shape[0]
    centroids, sizes = ops.cell_means(neurons, members, cells)
    empty = sizes == 0

    def split() -> tf.Tensor:
        """Empty cells get neurons drawn at random, so most often of large cells."""
        seed = tf.stack([tf.reduce_sum(members), tf.reduce_sum(sizes * sizes)])
        drawn = tf.random.stateless_uniform(
            tf.shape(sizes), seed, 0, units, dtype=tf.int32
        )
        return tf.where(empty[..., tf.newaxis], tf.gather(neurons, drawn), centroids)

    def filled() -> tf.Tensor:
        """Empty cells get the neurons farthest from their centroids, in this order."""
        tables = centroids.shape[0]
        places = tf.maximum(members, 0) + cells * tf.range(tables)  # [units, tables]
        own = tf.gather(tf.reshape(centroids, [tables * cells, -1]), places)
        distances = tf.reduce_sum((neurons[:, tf.newaxis] - own) ** 2, axis=-1)
        distances = tf.transpose(distances)  # [tables, units]
        far = tf.math.top_k(distances, min(cells, units)).indices
        place = tf.cumsum(tf.cast(empty, tf.int32), axis=-1, exclusive=True)
        far = tf.gather(far, place % min(cells, units), batch_dims=1)
        return tf.where(empty[..., tf.newaxis], tf.gather(neurons, far), centroids)

    # Where cells have a few neurons each, the farthest are worth cells of their own.
    mend = split if cells > _MANY_CELLS else filled
    return tf.cond(tf.reduce_any(empty), mend, lambda: centroids)


def _nearest(neurons: tf.Tensor, centroids: tf.Tensor) -> tf.Tensor:
    """The nearest centroid of each table, int32 `[n, tables]`; the first of equals."""
    if centroids.shape[1] <= _MANY_CELLS:
        return ops.nearest_cells(neurons, centroids)
    middles, group_of = _groups(centroids)
    return ops.nearest_cells(neurons, centroids, middles, group_of, _NEAR_GROUPS)


def _groups(centroids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The cells of each table in about `2 sqrt(cells)` groups, by k-means.

    Neurons are many where cells are many, in the largest groups. With twice as many
    groups as would be best if all were alike, a neuron looks at a third less, and its
    cell is as near.

    Args:
        centroids: `[tables, cells, coordinates]`.

    Returns:
        The groups' middles `[tables, groups, coordinates]`, and int32
        `[tables, cells]`, the group of each cell.
    """
    middles = centroids[:, :: max(1, math.isqrt(centroids.shape[1]) // 2)]
    tables, groups, _ = middles.shape
    for _ in range(_GROUPING_STEPS):
        members, moved = [], []
        for table in range(tables):
            cells, old = centroids[table], middles[table]
            group_of = ops.nearest_cells(cells, old[tf.newaxis])
            means, sizes = ops.cell_means(cells, group_of, groups)
            members.append(group_of[:, 0])
            moved.append(tf.where(sizes[0][:, tf.newaxis] > 0, means[0], old))
        middles = tf.stack(moved)
    return middles, tf.stack(members)
