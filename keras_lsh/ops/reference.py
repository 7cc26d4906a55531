"""The ops in stock TensorFlow: slow, obvious, and right.

Each function has the signature and the results of the compiled op of its name: integer
results bit for bit (order, ties and filling included), floating-point results up to
rounding. They serve three ends: the compiled ops are tested against them, they take
over where there is no compiled library, and `export_portable` traces them, so that a
SavedModel of theirs consists of stock ops. Every function works eagerly and in a
`tf.function`, with an unknown batch size. Data is checked unless inside
`with data_checks(False):`.

Floats are ordered by their bits, as integers: TensorFlow's threads flush subnormal
numbers to zero and other threads do not, and NaN has no place in an order of floats.
For the same reason a subnormal margin, or squared margin, counts as zero.
"""

import contextlib
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh.ops._checks import (
    MAX_INT32,
    active_logits,
    as_tensor,
    as_weight,
    cell_queries,
    check_range,
    checked,
    data_checks,
    digit_codes,
    observation,
    require,
    require_integer,
    require_same_batch,
    require_shape,
    rotation,
    rows_of,
    sketch_queries,
)
from keras_lsh.ops.active_labels import active_labels

__all__ = [
    "active_matmul",
    "active_softmax_crossentropy",
    "build_tables",
    "data_checks",
    "hash_codes",
    "matmul",
    "observe_inputs",
    "probe_digits",
    "probe_sequence",
    "rank_cells",
    "rotate",
    "row_adam",
    "row_digests",
    "scatter_active",
    "select_active",
    "select_by_sketch",
    "select_from_cells",
    "sign_sketch",
    "sparse_matmul",
    "subtract_rows",
]

MAX_BITS = 20
MAX_PROBED_BUCKETS = 32767  # their weights, each at most 2**16, sum up in int32
NO_ID = -1

_MODULUS = 2**31 - 1
_MOST_DIGIT_COST = 1e9
_FLOAT_MAX = np.finfo(np.float32).max
_FLOAT_MIN = np.finfo(np.float32).tiny  # the smallest that is not subnormal
_LEAST_SKETCHED = np.float32(1e-30)
_MOST_SKETCH_LEVEL = 31


def matmul(a: Any, b: Any) -> tf.Tensor:
    """The product of two matrices; compiled, it does not depend on the threads.

    The last bits of `tf.matmul` change with their number, and with these bits neurons
    change their buckets. No gradient passes through it.

    Args:
        a: float32 `[n, inner]`.
        b: float32 `[inner, m]`; quick if it fits the processor's caches.

    Returns:
        float32 `[n, m]`.
    """
    a, b = as_tensor("a", a, tf.float32, 2), as_tensor("b", b, tf.float32, 2)
    require_shape("b", b, [a.shape[1], None], f"a tensor of {a.shape[1]} rows")
    return tf.stop_gradient(tf.matmul(a, b))


def shared_matmul(inputs: Any, rows: Any) -> tf.Tensor:
    """Products of all inputs with all rows; compiled, they do not depend on threads.

    Args:
        inputs: float32 `[batch, input_dim]`.
        rows: float32 `[n, input_dim]`.

    Returns:
        float32 `[batch, n]`.
    """
    inputs = as_tensor("inputs", inputs, tf.float32, 2)
    rows = as_tensor("rows", rows, tf.float32, 2)
    require_shape("rows", rows, [None, inputs.shape[1]], "rows like the inputs")
    return tf.matmul(inputs, rows, transpose_b=True)


def coordinates(
    vectors: Any, directions: Any, addend: Any = None, largest: float = math.inf
) -> tf.Tensor:
    """Products of vectors with some directions, made finite.

    As `matmul`, with what comes after it while the products are in the cache: for
    hundreds of thousands of vectors each pass over them counts.

    Args:
        vectors: float32 `[n, inner]`.
        directions: float32 `[inner, m]`.
        addend: float32 `[n]`, what the last column is raised by, or None.
        largest: What coordinates are cut to, on either side of 0. NaN becomes 0.

    Returns:
        float32 `[n, m]`.

    Raises:
        ValueError: If shapes or dtypes do not match.
    """
    vectors = as_tensor("vectors", vectors, tf.float32, 2)
    result = matmul(vectors, as_tensor("directions", directions, tf.float32, 2))
    if addend is not None:
        addend = as_tensor("addend", addend, tf.float32, 1)
        require_shape(
            "addend", addend, [vectors.shape[0]], "an element for each of the vectors"
        )
        rest = tf.shape(result)[1] - 1
        result += tf.pad(addend[:, tf.newaxis], [[0, 0], [rest, 0]])
    result = tf.where(tf.math.is_nan(result), 0.0, result)
    return tf.clip_by_value(result, -largest, largest)


def row_digests(rows: Any) -> tf.Tensor:
    """A number for each row that tells whether the row has changed.

    Equal rows have equal digests; the digest of a row that has changed is another one,
    but for one change in 2^32.

    Args:
        rows: float32 `[n, inner]`.

    Returns:
        int32 `[n]`: the sum, modulo 2^32, of the elements' bits, element `j` times the
        odd number `(2 j + 1) * 0x9E3779B1`.

    Raises:
        ValueError: If shape or dtype do not match.
    """
    bits = tf.bitcast(as_tensor("rows", rows, tf.float32, 2), tf.int32)
    odd = tf.range(tf.shape(bits)[1]) * 2 + 1
    return tf.reduce_sum(bits * (odd * np.uint32(0x9E3779B1).astype(np.int32)), axis=1)


def hash_codes(margins: Any, tables: int, bits: int) -> tf.Tensor:
    """Packs the signs of margins into bucket codes.

    Args:
        margins: float32 `[n, tables * bits]`, e.g. the products of `n` vectors with
            `tables * bits` random directions.
        tables: Number of hash tables.
        bits: Bits per code, from 1 to 20.

    Returns:
        int32 `[n, tables]`, in `[0, 2**bits)`. Bit `j` of code `t` says whether
        `margins[:, t * bits + j] > 0` (NaN: no).
    """
    margins = _margins_by_table(margins, tables, bits)
    positive = tf.cast(margins >= _FLOAT_MIN, tf.int32)
    return tf.reduce_sum(positive * 2 ** tf.range(bits), axis=-1)


def build_tables(codes: Any, buckets: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Sorts neurons into the buckets of hash tables (compressed sparse rows).

    Args:
        codes: int32 `[units, tables]`, in `[0, buckets)`.
        buckets: Number of buckets of a table.

    Returns:
        `(offsets, ids)`: int32 `[tables, buckets + 1]` and `[tables, units]`. Bucket
        `c` of table `t` holds `ids[t, offsets[t, c]:offsets[t, c + 1]]`, ascending.
    """
    codes = as_tensor("codes", codes, tf.int32, 2)
    require_integer("buckets", buckets, 1, MAX_INT32 - 1, "a positive int32")
    codes = checked(codes, lambda: check_range("codes", codes, 0, buckets))
    units = tf.shape(codes, tf.int64)[0]
    by_table = tf.cast(tf.transpose(codes), tf.int64)
    keys = tf.sort(by_table * units + tf.range(units), axis=-1)
    ids = tf.cast(keys % tf.maximum(units, 1), tf.int32)
    firsts = tf.range(buckets + 1, dtype=tf.int64) * units
    offsets = tf.searchsorted(
        keys, tf.broadcast_to(firsts, [tf.shape(codes)[1], buckets + 1])
    )
    offsets.set_shape([codes.shape[1], buckets + 1])
    return offsets, ids


def probe_sequence(
    margins: Any, tables: int, bits: int, probes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which buckets to look into.

    Query-directed multi-probe (Lv et al. 2007, "Multi-Probe LSH: Efficient Indexing for
    High-Dimensional Similarity Search", section 4.4), over all tables at once. Flipping
    some bits of a code costs the sum of their squared margins.

    Chosen are the initial bucket of each table, in table order (cost 0), and the first
    others by (cost, table, mask), where the bits of a table are sorted by (margin**2,
    bit) and `mask` is the set of flipped positions in that sorting, as a number. These
    come by (table, mask). A cost is summed in float32 from the lowest position to the
    highest. A squared margin that is NaN or infinite counts as the largest float32.

    Args:
        margins: float32 `[batch, tables * bits]`.
        tables: Number of hash tables.
        bits: Bits per code, from 1 to 20.
        probes: Buckets to look into per table, on average; from 1 to `2**bits`.

    Returns:
        `(buckets, weights)`, int32 `[batch, tables * probes]` each: global bucket
        numbers `table * 2**bits + code`, and what a collision there is worth,
        `65536 / (1 + cost)`, truncated, at least 1.
    """
    margins = _margins_by_table(margins, tables, bits)
    masks = 2**bits
    require_integer("probes", probes, 1, masks, f"an integer from 1 to {masks}")
    initial = hash_codes(tf.reshape(margins, [-1, tables * bits]), tables, bits)

    squares = margins * margins
    squares = tf.where(squares < _FLOAT_MAX, squares, _FLOAT_MAX)
    squares = tf.where(squares < _FLOAT_MIN, 0.0, squares)
    bit = tf.range(bits, dtype=tf.int64)
    by_square = tf.sort(_float_bits(squares) * bits + bit, axis=-1)
    squares = _float_from_bits(by_square // bits)
    flips = tf.gather(2**bit, by_square % bits)  # [batch, tables, bits]

    # All masks of a table by doubling, as keys (cost, mask). A set that `wanted` others
    # precede is still preceded by them when a position joins it, which makes it no
    # cheaper; so it can be dropped on the way.
    wanted = min(masks, tables * (probes - 1) + 1)
    keys = tf.zeros_like(by_square[..., :1])
    for position in range(bits):
        cost = _float_from_bits(keys // masks) + squares[..., position, tf.newaxis]
        mask = keys % masks + 2**position
        keys = tf.concat([keys, _float_bits(cost) * masks + mask], axis=-1)
        if keys.shape[-1] > wanted:
            keys = tf.sort(keys, axis=-1)[..., :wanted]
    keys = keys[..., 1:]  # without the empty set, which is the initial bucket

    table = tf.range(tables, dtype=tf.int64)[:, tf.newaxis]
    keys = (keys // masks * tables + table) * masks + keys % masks  # cost, table, mask
    keys = tf.reshape(keys, [tf.shape(margins)[0], tables * (wanted - 1)])
    keys = tf.sort(keys, axis=-1)[:, : tables * (probes - 1)]
    order = tf.argsort(keys % (tables * masks), axis=-1)  # table, mask
    keys = tf.gather(keys, order, batch_dims=1)
    cost = _float_from_bits(keys // masks // tables)
    table = keys // masks % tables
    is_flipped = keys[..., tf.newaxis] // 2**bit % 2
    flip = tf.reduce_sum(is_flipped * tf.gather(flips, table, batch_dims=1), axis=-1)
    flip = tf.cast(flip, tf.int32)
    code = tf.bitwise.bitwise_xor(tf.gather(initial, table, batch_dims=1), flip)

    first = initial + tf.range(tables) * masks
    further = code + tf.cast(table, tf.int32) * masks
    return tf.concat([first, further], axis=1), _probe_weights(first, cost)


def probe_digits(
    scores: Any, probes: int, negatives: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which buckets to look into, where codes have digits of several values.

    What `probe_sequence` does for bits. A digit of a table's code is the value whose
    score is the largest; another value costs the square of how much its score is
    smaller. A square that is NaN, or not below 1e9, counts as 1e9.

    Values are sorted by (cost, value), and the first of them costs nothing in any case.
    The cost of a code is the sum of those of its digits, in float32, from the first to
    the last. Chosen are each table's own bucket, of the first values, in table order,
    and the first others by (cost, table, places), where `places` are those of the
    digits in their sortings, as a number. These come by (table, places).

    Args:
        scores: float32 `[batch, tables, functions, n]`, known but for the batch. The
            first function's digit is the most significant one.
        probes: Buckets to look into per table, on average; from 1 to
            `values**functions`.
        negatives: Whether there are `2 * n` values, the latter `n` with the negative
            scores of the others; otherwise `n`.

    Returns:
        `(buckets, weights)`, int32 `[batch, tables * probes]` each: global bucket
        numbers `table * values**functions + code`, and what a collision there is worth,
        `65536 / (1 + cost)`, truncated, at least 1.
    """
    scores = as_tensor("scores", scores, tf.float32, 4)
    codes = digit_codes(scores, probes, negatives)
    if negatives:
        scores = tf.concat([scores, -scores], axis=-1)
    _, tables, functions, values = scores.shape
    batch = tf.shape(scores)[0]
    numbers = tf.where(tf.math.is_nan(scores), -math.inf, scores)
    gaps = tf.reduce_max(numbers, axis=-1, keepdims=True) - scores
    squares = gaps * gaps
    squares = tf.where(squares < _MOST_DIGIT_COST, squares, _MOST_DIGIT_COST)
    squares = tf.where(squares < _FLOAT_MIN, 0.0, squares)
    by_cost = tf.range(values, dtype=tf.int64)
    by_cost = tf.sort(_float_bits(squares) * values + by_cost, axis=-1)
    costs = _float_from_bits(by_cost // values)
    costs = tf.where(tf.range(values) > 0, costs, 0.0)
    value_at = tf.cast(by_cost % values, tf.int32)

    # All places of a table as keys (cost, places). Codes that go on as the first
    # `wanted` beginnings do, with the first values, precede any that begins otherwise.
    wanted = min(codes, tables * (probes - 1) + 1)
    keys = tf.zeros_like(by_cost[:, :, 0, :1])
    for function in range(functions):
        cost = _float_from_bits(keys // codes)[..., tf.newaxis]
        cost += costs[:, :, function, tf.newaxis]
        places = (keys % codes * values)[..., tf.newaxis] + tf.range(
            values, dtype=tf.int64
        )
        size = keys.shape[-1] * values
        keys = tf.reshape(_float_bits(cost) * codes + places, [batch, tables, size])
        keys = tf.sort(keys, axis=-1)[..., :wanted]
    keys = keys[..., 1:]  # without the own bucket

    table = tf.range(tables, dtype=tf.int64)[:, tf.newaxis]
    keys = (keys // codes * tables + table) * codes + keys % codes
    keys = tf.reshape(keys, [batch, tables * (wanted - 1)])
    keys = tf.sort(keys, axis=-1)[:, : tables * (probes - 1)]
    order = tf.argsort(keys % (tables * codes), axis=-1)  # table, places
    keys = tf.gather(keys, order, batch_dims=1)
    cost = _float_from_bits(keys // codes // tables)
    table = tf.cast(keys // codes % tables, tf.int32)
    places = tf.cast(keys % codes, tf.int32)

    first, further = codes * tf.range(tables), codes * table
    for function in range(functions):
        weight = values ** (functions - 1 - function)
        first += weight * value_at[:, :, function, 0]
        digit = (table * functions + function) * values + places // weight % values
        flat = tf.reshape(value_at, [batch, tables * functions * values])
        further += weight * tf.gather(flat, digit, batch_dims=1)
    return tf.concat([first, further], axis=1), _probe_weights(first, cost)


def select_active(
    buckets: Any,
    weights: Any,
    offsets: Any,
    table_ids: Any,
    forced: Any,
    fill_seeds: Any,
    active: int,
) -> tf.Tensor:
    """Chooses the active neurons of each sample from the buckets to look into.

    A neuron's score is the sum of the weights of the buckets that contain it. Chosen
    are the forced neurons, then those with a positive score by (score descending, id
    ascending), then, with fill seeds, the others by their rank, until there are
    `active`. The rank of neuron `n` is `(a * n + c) % p` with `p` the smallest prime
    from `max(units, 2)` on, `h1 = (uint32(seed) % M * 48271 + 11) % M`,
    `h2 = (h1 * 16807 + 7) % M`, `M = 2**31 - 1`, `a = 1 + h1 % (p - 1)`, `c = h2 % p`.

    Args:
        buckets: int32 `[batch, P]`, global numbers `table * buckets_per_table + code`.
            `P` may be 0.
        weights: int32 `[batch, P]`, from 1 to 65536.
        offsets: int32 `[tables, buckets_per_table + 1]` (see `build_tables`).
        table_ids: int32 `[tables, units]` (see `build_tables`).
        forced: int32 `[batch, F]`, ids that are active whatever the tables say; -1 is
            skipped, duplicates count once. `F` may be 0.
        fill_seeds: int32 `[batch]`, or `[0]` not to fill.
        active: Number of ids per sample, at most `units`.

    Returns:
        int32 `[batch, active]`: ids ascending, then -1 where fewer were found.

    Raises:
        tf.errors.InvalidArgumentError: If a bucket, weight, offset or id is out of
            range, or if a sample has more than `active` different forced ids.
    """
    buckets = as_tensor("buckets", buckets, tf.int32, 2)
    weights = as_tensor("weights", weights, tf.int32, 2)
    offsets = as_tensor("offsets", offsets, tf.int32, 2)
    table_ids = as_tensor("table_ids", table_ids, tf.int32, 2)
    forced = as_tensor("forced", forced, tf.int32, 2)
    fill_seeds = as_tensor("fill_seeds", fill_seeds, tf.int32, 1)
    tables, units = table_ids.shape
    known = "shape (tables, units), known and not empty"
    require(bool(tables and units), "table_ids", known, table_ids.shape)
    known = f"shape (tables, buckets + 1) with tables={tables}, known"
    require_shape("offsets", offsets, [tables, None], known)
    require((offsets.shape[1] or 0) > 1, "offsets", known, offsets.shape)
    require_shape("weights", weights, buckets.shape, "the shape of `buckets`")
    most = f"at most {MAX_PROBED_BUCKETS} buckets a sample"
    require(
        (buckets.shape[1] or 0) <= MAX_PROBED_BUCKETS, "buckets", most, buckets.shape
    )
    require_integer("active", active, 1, units, f"an integer from 1 to {units}")

    forced = require_same_batch("forced", forced, "buckets", buckets)
    is_forced = _forced_mask(forced, units, active)
    score = _scores(buckets, weights, offsets, table_ids)
    id_order = _MODULUS - tf.range(units, dtype=tf.int64)
    priority = tf.where(
        score > 0,
        tf.cast(score, tf.int64) * 2**31 + id_order,
        _fill_priority(fill_seeds, tf.shape(buckets)[0], units),
    )
    priority = tf.where(is_forced, tf.int64.max, priority)
    best, ids = tf.math.top_k(priority, active)
    ids = tf.sort(tf.where(best > 0, ids, units), axis=-1)
    return tf.where(ids < units, ids, NO_ID)


def nearest_cells(
    points: Any,
    centroids: Any,
    middles: Any = None,
    group_of: Any = None,
    groups: int = 0,
) -> tf.Tensor:
    """The cell of each table whose centroid is nearest to a point.

    By Euclidean distance; of equally near ones the first.

    With `groups`, a point looks only at the cells of so many groups: those whose
    middles are nearest to it, of equally near ones the first. Groups without cells do
    not count. Should there be no more than `groups` groups, or NaN in a table's
    centroids or middles, a point looks at all cells.

    Args:
        points: float `[n, width]`.
        centroids: float `[tables, cells, width]`.
        middles: float `[tables, any, width]`, of groups of cells. Not needed without
            `groups`.
        group_of: int32 `[tables, cells]`, the group of each cell. Likewise.
        groups: How many groups a point looks at. 0: at all cells.

    Returns:
        int32 `[n, tables]`.

    Raises:
        ValueError: If shapes or dtypes do not match.
        tf.errors.InvalidArgumentError: If there is no such group.
    """
    points = as_tensor("points", points, tf.float32, 2)
    centroids = as_tensor("centroids", centroids, tf.float32, 3)
    reason = f"to match points of shape {points.shape}"
    require_shape("centroids", centroids, [None, None, points.shape[1]], reason)
    require_integer("groups", groups, 0, MAX_INT32, "0 or more")
    halves = 0.5 * tf.reduce_sum(centroids * centroids, axis=-1)
    distances = halves - tf.einsum("nw,tcw->ntc", points, centroids)
    if groups > 0:
        middles = as_tensor("middles", middles, tf.float32, 3)
        group_of = as_tensor("group_of", group_of, tf.int32, 2)
        tables, cells = centroids.shape[:2]
        require_shape("middles", middles, [tables, None, points.shape[1]], reason)
        require_shape(
            "group_of", group_of, [tables, cells], "a group for each of the cells"
        )
        looked_at = _looked_at(points, centroids, middles, group_of, groups)
        distances = tf.where(looked_at, distances, float("inf"))
    distances = tf.where(tf.math.is_nan(distances), float("inf"), distances)
    nearest = tf.argmin(distances, axis=-1, output_type=tf.int32)
    return tf.ensure_shape(nearest, [points.shape[0], centroids.shape[0]])


def cell_means(points: Any, members: Any, cells: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean of each cell's points, and their number.

    Args:
        points: float `[n, width]`.
        members: int32 `[n, tables]`: the cell of each point in each table; -1: none.
        cells: Cells of a table.

    Returns:
        `(means, sizes)`: `[tables, cells, width]`, 0 without points, and int32
        `[tables, cells]`.

    Raises:
        ValueError: If shapes or dtypes do not match.
        tf.errors.InvalidArgumentError: If there is no such cell.
    """
    points = as_tensor("points", points, tf.float32, 2)
    members = as_tensor("members", members, tf.int32, 2)
    require_integer("cells", cells, 1, MAX_INT32, "a positive integer")
    require_shape(
        "members", members, [points.shape[0], None], "a row for each of the points"
    )

    def in_range() -> Any:
        message = f"`members` must be in [-1, {cells}), the cells"
        return (
            tf.debugging.assert_greater_equal(members, -1, message),
            tf.debugging.assert_less(members, cells, message),
        )

    members = checked(members, in_range)
    tables, width = members.shape[1], points.shape[1]
    ids = tf.where(members >= 0, members + tf.range(tables) * cells, -1)
    ids = tf.reshape(ids, [-1])  # segment -1 is left out
    repeated = tf.repeat(points, tables, axis=0)
    sums = tf.math.unsorted_segment_sum(repeated, ids, tables * cells)
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(ids), ids, tables * cells)
    means = sums / tf.cast(tf.maximum(sizes, 1), tf.float32)[:, tf.newaxis]
    means = tf.reshape(means, [tables, cells, width])
    return means, tf.reshape(sizes, [tables, cells])


def cell_worth(
    inputs: Any,
    center: Any,
    basis: Any,
    scales: Any,
    centroids: Any,
    largest: float = math.inf,
) -> tf.Tensor:
    """What each cell is worth to each input: the product of the two.

    Args:
        inputs: float32 `[batch, input_dim]`.
        center: float32 `[input_dim]`.
        basis: float32 `[input_dim, rank]`.
        scales: float32 `[rank]`. An input's coordinates are
            `z = basis' (x - center) / scales`, 0 where the scale is.
        centroids: float32 `[cells, rank + 1]`; they are multiplied by `(z, 1)`.
        largest: What `z` is cut to, on either side of 0. NaN becomes 0.

    Returns:
        float32 `[batch, cells]`.

    Raises:
        ValueError: If shapes or dtypes do not match.
    """
    tensors = cell_queries(inputs, center, basis, scales, centroids)
    inputs, center, basis, scales, centroids = tensors
    z = tf.math.divide_no_nan(matmul(inputs - center, basis), scales)
    z = tf.clip_by_value(tf.where(tf.math.is_nan(z), 0.0, z), -largest, largest)
    return matmul(z, tf.transpose(centroids[:, :-1])) + centroids[:, -1]


def rank_cells(worth: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """All cells as buckets to look into, weighted by their worth.

    Args:
        worth: float32 `[batch, cells]`, finite.

    Returns:
        `(buckets, weights)`, int32 `[batch, cells]` each: `0, 1, ..., cells - 1`, and
        weights linear in the worth, from 1 for the least of a sample to 65536 for the
        largest, truncated (1 if all are equal).
    """
    worth = as_tensor("worth", worth, tf.float32, 2)
    buckets = tf.broadcast_to(tf.range(tf.shape(worth)[1]), tf.shape(worth))
    least = tf.reduce_min(worth, axis=-1, keepdims=True)
    range_ = tf.reduce_max(worth, axis=-1, keepdims=True) - least
    shares = tf.math.divide_no_nan(worth - least, range_)
    weights = 1 + tf.cast(65535.0 * shares, tf.int32)
    return tf.ensure_shape(buckets, worth.shape), weights


def select_from_cells(
    inputs: Any,
    center: Any,
    basis: Any,
    scales: Any,
    centroids: Any,
    offsets: Any,
    table_ids: Any,
    forced: Any,
    active: int,
    largest: float = math.inf,
) -> tf.Tensor:
    """Chooses the active neurons of each input from the cells of one table.

    `cell_worth`, `rank_cells` and `select_active` one after the other; compiled, it is
    one op that keeps what is between them in the cache. All cells being looked into,
    nothing is left to fill up with unless the table is corrupt.

    Args:
        inputs: float32 `[batch, input_dim]`.
        center: float32 `[input_dim]` (see `cell_worth`).
        basis: float32 `[input_dim, rank]`.
        scales: float32 `[rank]`.
        centroids: float32 `[cells, rank + 1]`, at most 32767 of them.
        offsets: int32 `[1, cells + 1]` (see `build_tables`).
        table_ids: int32 `[1, units]`.
        forced: int32 `[batch, F]`, as in `select_active`.
        active: Number of ids per sample, at most `units`.
        largest: What coordinates are cut to.

    Returns:
        int32 `[batch, active]`, ascending.

    Raises:
        ValueError: If shapes or dtypes do not match.
        tf.errors.InvalidArgumentError: If an offset or id is out of range, or if a
            sample has more than `active` different forced ids.
    """
    worth = cell_worth(inputs, center, basis, scales, centroids, largest)
    offsets = as_tensor("offsets", offsets, tf.int32, 2)
    cells = worth.shape[1]
    buckets = None if cells is None else cells + 1
    expected = f"shape (1, {buckets}), of one table with a bucket for each cell"
    require_shape("offsets", offsets, [1, buckets], expected)
    buckets, weights = rank_cells(worth)
    seeds = tf.reduce_sum(buckets, axis=-1)
    return select_active(buckets, weights, offsets, table_ids, forced, seeds, active)


def observe_inputs(
    inputs: Any,
    center: Any,
    basis: Any,
    mean: Any,
    moments: Any,
    count: Any,
    rows: int,
    largest: float,
    window: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adds inputs to averages of `x - center` and `(x - center) (x - center)' basis`.

    Args:
        inputs: float32 `[batch, input_dim]`.
        center: float32 `[input_dim]`.
        basis: float32 `[input_dim, rank]`.
        mean: float32 `[input_dim]`, the average of `x - center` so far.
        moments: float32 `[input_dim, rank]`, likewise.
        count: float32 scalar, the number of inputs in the averages.
        rows: Of the batch, at most so many inputs are added, evenly spaced.
        largest: An input with an element of this size or more, or NaN, is left out.
        window: The new count is at most this, so that averages forget.

    Returns:
        The new `(mean, moments, count)`.
    """
    inputs, center, basis, mean, moments, count = observation(
        inputs, center, basis, mean, moments, count, rows
    )
    batch = tf.shape(inputs)[0]
    stride = tf.maximum((batch + rows - 1) // rows, 1)
    inputs = tf.gather(inputs, tf.range(0, batch, stride))
    # Not so for NaN either.
    usable = tf.reduce_all(tf.abs(inputs) < largest, axis=-1, keepdims=True)
    inputs = tf.where(usable, inputs - center, 0.0)
    new = tf.reduce_sum(tf.cast(usable, tf.float32))
    share = tf.math.divide_no_nan(1.0, count + new)  # of an input
    rest = 1.0 - new * share
    products = tf.matmul(inputs, share * tf.matmul(inputs, basis), transpose_a=True)
    return (
        rest * mean + share * tf.reduce_sum(inputs, axis=0),
        rest * moments + products,
        tf.minimum(count + new, window),
    )


def rotate(vectors: Any, signs: Any) -> tf.Tensor:
    """Rotates vectors pseudo-randomly: `H D3 H D2 H D1 x / features`.

    With Walsh-Hadamard matrices `H` and diagonal matrices of random signs, as
    `keras_lsh.CrossPolytope` does. The square of a vector's length grows `features`
    times. The sums are those of the compiled op, bit for bit.

    Args:
        vectors: float32 `[n, dim]`; zeros are added at their ends.
        signs: float32 `[3, features]`, -1 or 1: the diagonals of `D1`, `D2` and `D3`.
            A power of two, at least 16 and at least `dim`.

    Returns:
        float32 `[n, features]`.

    Raises:
        ValueError: If shapes or dtypes do not match.
    """
    vectors = as_tensor("vectors", vectors, tf.float32, 2)
    signs = _checked_signs("vectors", vectors, signs)
    features = signs.shape[1]
    if features is None:
        raise ValueError(
            "The reference op must know how many features there are. Received: "
            f"signs.shape={signs.shape}"
        )
    added = features - tf.shape(vectors)[1]
    x = tf.pad(vectors, [[0, 0], [0, added]]) * (signs[0] / features)
    x = _walsh_hadamard(x, features)
    for diagonal in (1, 2):
        x = _walsh_hadamard(x * signs[diagonal], features)
    return tf.ensure_shape(x, [vectors.shape[0], features])


def sign_sketch(kernel: Any, signs: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The signs of the weights, less the mean neuron's, after `rotate`, and scales.

    `scale * sum(signs * rotate(x))` is about `(weights - mean) @ x`: signs of random
    projections (Charikar 2002, "Similarity Estimation Techniques from Rounding
    Algorithms"), whole inputs (Dong, Charikar & Li 2008, "Asymmetric Distance
    Estimation with Sketches for Similarity Search in High-Dimensional Spaces"), a
    rotation and a scale (Gao & Long 2024, "RaBitQ", section 3).

    Args:
        kernel: float32 or bfloat16 `[units, input_dim]`.
        signs: float32 `[3, features]`, see `rotate`.

    Returns:
        `(codes, scales)`:
        uint8 `[ceil(units / 32), features / 4, 16]`; of 32 neurons, byte `i` of a group
        has in its lower half the signs of 4 elements of neuron `i`, bit `j` of element
        `j`, 1 if positive, and in its upper half those of neuron `i + 16`;
        float32 `[units]`, the mean size of the rotated elements by `features`, by which
        the signs come nearest to the weights. 0 if less than 1e-30. NaN, with the signs
        0, of a neuron with a weight that is not finite; it does not count for the mean.

    Raises:
        ValueError: If shapes or dtypes do not match.
    """
    kernel = as_weight("kernel", kernel, 2, tf.float32, tf.bfloat16)
    kernel = tf.cast(kernel, tf.float32)
    signs = _checked_signs("kernel", kernel, signs)
    units = tf.shape(kernel)[0]
    finite = tf.reduce_all(tf.math.is_finite(kernel), axis=1, keepdims=True)
    total = tf.reduce_sum(tf.where(finite, tf.cast(kernel, tf.float64), 0), axis=0)
    mean = tf.cast(total / tf.reduce_sum(tf.cast(finite, tf.float64)), tf.float32)
    mean = tf.where(tf.math.is_finite(mean), mean, 0)
    rotated = rotate(kernel - mean, signs)
    features = rotated.shape[1]
    sizes, width = tf.abs(rotated), features
    while width > 1:  # a tree, so that all sum up alike
        width //= 2
        sizes = sizes[:, :width] + sizes[:, width:]
    sizes = sizes[:, 0]
    scales = sizes / tf.constant(features**2, tf.float32)
    scales = tf.where(scales < _LEAST_SKETCHED, 0.0, scales)
    finite = tf.math.is_finite(sizes)
    bits = tf.logical_and(rotated > 0, finite[:, tf.newaxis])
    bits = tf.pad(bits, [[0, -units % 32], [0, 0]])
    # Halves of blocks, neurons, groups, elements of a group.
    bits = tf.reshape(tf.cast(bits, tf.int32), [-1, 2, 16, features // 4, 4])
    nibbles = tf.reduce_sum(bits * [1, 2, 4, 8], axis=-1)
    codes = tf.transpose(nibbles[:, 0] + 16 * nibbles[:, 1], [0, 2, 1])
    return tf.cast(codes, tf.uint8), tf.where(finite, scales, math.nan)


def select_by_sketch(
    rotated: Any, codes: Any, scales: Any, bias: Any, count: int
) -> tf.Tensor:
    """The neurons with the largest scores by a sketch.

    The compiled op looks sums up in tables of 16 entries for 4 signs, 32 neurons at a
    time (André, Kermarrec & Le Scouarnec 2015, "Cache Locality Is Not Enough:
    High-Performance Nearest Neighbor Search with Product Quantization Fast Scan").

    Args:
        rotated: float32 `[batch, features]`, the inputs after `rotate`.
        codes: uint8 `[blocks, features / 4, 16]`, of `sign_sketch`.
        scales: float32 `[units]`, of `sign_sketch`.
        bias: float32 `[units]`, or None.
        count: How many, at most `units`.

    Returns:
        int32 `[batch, count]`, ascending. The score is
        `scale * (step * sum(signs * levels)) + bias`, where the levels are the input's
        elements in whole steps, rounded, ties to even, and a step is a 31st of the
        largest element by size. NaN counts as the largest score; of equal ones the
        smaller ids are taken. An input whose largest element is less than 1e-30, or
        that is not finite, counts as 0.

    Raises:
        ValueError: If shapes, dtypes or `count` do not match.
    """
    scores = sketch_scores(rotated, codes, scales, bias, count)
    _, ids = tf.math.top_k(_order(scores), count)  # of equal ones the first
    return tf.sort(ids, axis=-1)


def sketch_scores(
    rotated: Any, codes: Any, scales: Any, bias: Any, count: int = 1
) -> tf.Tensor:
    """What `select_by_sketch` goes by, float32 `[batch, units]`."""
    rotated, codes, scales, bias = sketch_queries(rotated, codes, scales, bias, count)
    most = tf.reduce_max(tf.abs(rotated), axis=-1, keepdims=True)
    finite = tf.reduce_all(tf.math.is_finite(rotated), axis=-1, keepdims=True)
    used = tf.logical_and(finite, most >= _LEAST_SKETCHED)
    most = tf.where(used, most, 1.0)
    levels = tf.round(tf.where(used, rotated, 0) * (_MOST_SKETCH_LEVEL / most))
    units = tf.shape(scales)[0]

    def fit() -> list[Any]:
        shape, blocks = tf.shape(codes), (units + 31) // 32
        return [
            tf.debugging.assert_equal(
                [shape[0], 4 * shape[1], shape[2]],
                [blocks, tf.shape(rotated)[1], 16],
                "`codes` must be blocks of 32 neurons, of as many groups of 4 elements "
                "as `rotated` has.",
            ),
            tf.debugging.assert_less_equal(count, units, "`count` is too large."),
        ]

    codes = checked(codes, lambda: tf.group(*(a for a in fit() if a is not None)))
    nibbles = tf.cast(tf.transpose(codes, [0, 2, 1]), tf.int32)
    nibbles = tf.stack([nibbles % 16, nibbles // 16], axis=1)
    bits = nibbles[..., tf.newaxis] // [1, 2, 4, 8] % 2
    signs = tf.reshape(2 * bits - 1, [-1, tf.shape(rotated)[1]])[:units]
    # Whole numbers that floats hold exactly.
    sums = tf.matmul(levels, tf.cast(signs, tf.float32), transpose_b=True)
    step = tf.where(used, most / _MOST_SKETCH_LEVEL, 0.0)
    products = _flushed(scales * (step * sums))
    if bias.shape[0] == 0:
        return products + 0.0
    return _flushed(products + bias)


def active_matmul(
    inputs: Any,
    kernel: Any,
    bias: Any,
    ids: Any,
    keep: int | None = None,
    neuron_keys: Any = None,
    forced: Any = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The outputs of each sample's active neurons.

    `values[b, s] = kernel[ids[b, s]] . inputs[b] + bias[ids[b, s]]`, and 0 where the id
    is -1.

    A kernel of bfloat16 is a way of storing it: its rows are widened to float32 as they
    are read, and the values are those of the same numbers stored in float32.

    Differentiable in `inputs`, `kernel` and `bias`. Variables get `tf.IndexedSlices`
    with ascending rows, each of them once: those of the ids that are returned. There is
    no second-order gradient in the compiled op. It reads variables in place, also when
    a gradient is computed: a variable must not change between the two, or the gradient
    is that at its new value (`keras_lsh.ops.tensor_form` takes a copy instead).

    Args:
        inputs: float `[batch, input_dim]`.
        kernel: `[units, input_dim]`, a variable or a tensor of the inputs' dtype, or of
            bfloat16, with inputs and bias of float32.
        bias: `[units]`, or None.
        ids: int32 `[batch, active]`, in `[0, units)`, or -1 for none.
        keep: Keep only this many neurons of a sample, those with the largest values. Of
            equal values the smaller id stays; NaN counts as the largest.
        neuron_keys: int32 `[units, any]`, or None: a hint, for speed alone. Neurons of
            equal first key, e.g. of one bucket, are likely to be chosen by the same
            samples; the compiled op multiplies them together.
        forced: int32 `[batch, any]`, or None: ids that count as larger than all others
            when it comes to `keep`. -1, and what is not among the sample's `ids`, is
            left out.

    Returns:
        `(values, ids)`: float and int32, `[batch, active]`, or `[batch, keep]` with the
        ids in their old order and -1 at the end.
    """
    del neuron_keys
    kernel = _row_source("kernel", kernel, 2)
    dtype = tf.float32 if kernel.dtype == tf.bfloat16 else kernel.dtype
    bias = None if bias is None else _row_source("bias", bias, 1, dtype)
    inputs = as_tensor("inputs", inputs, dtype, 2)
    ids = as_tensor("ids", ids, tf.int32, 2)
    require_shape("kernel", kernel, [None, None], "a tensor of rank 2")
    like_kernel = f"to match a kernel of shape {kernel.shape}"
    require_shape("inputs", inputs, [None, kernel.shape[1]], like_kernel)
    if bias is not None:
        require_shape("bias", bias, kernel.shape[:1], like_kernel)
    ids = require_same_batch("ids", ids, "inputs", inputs)
    units = kernel.shape[0] or tf.shape(kernel)[0]
    ids = checked(ids, lambda: check_range("ids", ids, NO_ID, units))
    if keep is not None:
        most = MAX_INT32 if ids.shape[1] is None else ids.shape[1]
        expected = f"an integer from 1 to {most}, the ids of a sample"
        require_integer("keep", keep, 1, most, expected)
        candidates = tf.stop_gradient(_active_values(inputs, kernel, bias, ids))
        if forced is not None:
            forced = as_tensor("forced", forced, tf.int32, 2)
            forced = require_same_batch("forced", forced, "inputs", inputs)
        ids = _largest(candidates, ids, keep, forced)
    return _active_values(inputs, kernel, bias, ids), ids


def scatter_active(values: Any, ids: Any, units: int) -> tf.Tensor:
    """Lays the values of active neurons out among zeros.

    Differentiable in `values`.

    Args:
        values: float `[batch, active]`.
        ids: int32 `[batch, active]`, in `[0, units)` and different within a sample, or
            -1 for none (its value is ignored).
        units: Width of the result.

    Returns:
        `[batch, units]`, of the values' dtype.
    """
    values = tf.convert_to_tensor(values)
    ids = as_tensor("ids", ids, tf.int32, 2)
    require_integer("units", units, 1, MAX_INT32, "a positive integer")
    require_shape("values", values, ids.shape, f"the shape of `ids`, {ids.shape}")
    ids = require_same_batch("ids", ids, "values", values)
    ids = checked(ids, lambda: check_range("ids", ids, NO_ID, units))
    places = tf.where(ids >= 0)  # [m, 2]
    sample = tf.cast(places[:, 0], tf.int32)
    targets = tf.stack([sample, tf.gather_nd(ids, places)], axis=-1)
    shape = [tf.shape(ids)[0], units]
    dense = tf.scatter_nd(targets, tf.gather_nd(values, places), shape)
    return tf.ensure_shape(dense, [ids.shape[0], units])


def active_softmax_crossentropy(
    values: Any,
    ids: Any,
    labels: Any,
    units: Any,
    drawn: Any = None,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """The softmax cross-entropy of each sample over its active classes.

    Labels share the target equally. One that is not active is added to the sample's
    classes with the smallest logit of these, and gives no gradient. What is
    `-inf` has no share in the softmax; with NaN, or `inf`, the loss is NaN.
    Differentiable in `values`, as often as wanted.

    Args:
        values: `[batch, active]`, the logits, float32; or float64, for which there is
            no compiled op. Anything in unused places.
        ids: int32 `[batch, active]`, their classes, strictly ascending, -1 in unused
            places, at the end; or `[1, active]`, the same for all samples.
        labels: int32 `[batch, any]`, the different labels of each sample, one at least;
            -1 in unused places.
        units: Number of classes, an integer or a scalar.
        drawn: None; or bool, `[batch, active]` or `[1, active]`, classes that are there
            by chance. If they are not labels, each counts as
            `1 + (units - active - missing) / drawn` classes: they stand for all that
            are neither active nor labels.
        label_smoothing: In [0, 1], the share of the target that is spread over the
            active classes and labels, each as often as it counts.

    Returns:
        `[batch]`, of the values' dtype; `log(units)` for a sample without active
        classes.

    Raises:
        ValueError: If shapes or dtypes do not match.
        tf.errors.InvalidArgumentError: If a sample has no label, or ids do not ascend.
    """
    values, ids, labels, units, *by_chance = active_logits(
        values, ids, labels, units, drawn, label_smoothing
    )
    labels = require_same_batch("labels", labels, "values", values)
    ids = checked(ids, lambda: _check_ascending(ids))
    found = active_labels(values, ids, labels, units, *by_chance)
    num_labels = checked(
        found.labels,
        lambda: tf.debugging.Assert(
            tf.reduce_all(found.labels > 0),
            [
                "A softmax needs at least one label a sample. Drop samples without "
                "labels, or use `ActiveSigmoidCrossentropy`. Without labels are the "
                "samples of the batch at",
                tf.where(found.labels == 0)[:, 0],
            ],
        ),
    )
    least = tf.constant(-math.inf, values.dtype)
    logits = tf.where(found.used, values, least)
    # The loss is that of logits less any constant; with this one, exp is safe.
    largest = tf.reduce_max(logits, axis=-1)
    largest = tf.stop_gradient(tf.where(found.has_active, largest, 0.0))
    shifted = logits - largest[:, tf.newaxis]
    terms = tf.exp(shifted)
    if drawn is not None:
        terms *= found.counts
    is_missing = tf.logical_and(found.missing > 0, found.has_active)
    lowest = tf.where(is_missing, found.lowest - largest, 0.0)
    total = tf.reduce_sum(terms, axis=-1) + found.missing * tf.exp(lowest)
    total = tf.where(found.has_active, total, tf.cast(units, total.dtype))

    missing = found.missing * lowest
    of_labels = found.of_labels - largest[:, tf.newaxis]
    of_labels = tf.reduce_sum(tf.where(found.found, of_labels, 0.0), axis=-1)
    target = (of_labels + missing) / num_labels
    if label_smoothing:
        of_all = found.counts * tf.where(found.used, shifted, 0.0)
        of_all = tf.reduce_sum(of_all, axis=-1) + missing
        number = tf.reduce_sum(found.counts, axis=-1) + found.missing
        target += label_smoothing * (of_all / number - target)
    return tf.math.log(total) - target


def sparse_matmul(values: Any, ids: Any, kernel: Any) -> tf.Tensor:
    """The product of a sparse matrix and a kernel, of which only some rows are read.

    `outputs[b] = sum over s of values[b, s] * kernel[ids[b, s]]`, the places whose id
    is -1 left out.

    Differentiable in `values` and `kernel`, twice if need be. A variable gets
    `tf.IndexedSlices` with ascending rows, each of them once: those of the ids. As in
    `active_matmul`, it is read in place, also when a gradient is computed.

    Args:
        values: float `[batch, most]`.
        ids: int32 `[batch, most]`, in `[0, rows)`, or -1 for none (its value is
            ignored). What is given for one id several times adds up.
        kernel: `[rows, units]`, a variable or a tensor of the values' dtype.

    Returns:
        float `[batch, units]`.
    """
    kernel = _row_source("kernel", kernel, 2)
    values = as_tensor("values", values, kernel.dtype, 2)
    ids = as_tensor("ids", ids, tf.int32, 2)
    require_shape("kernel", kernel, [None, None], "a tensor of rank 2")
    require_shape("values", values, ids.shape, f"the shape of `ids`, {ids.shape}")
    ids = checked(
        require_same_batch("ids", ids, "values", values),
        lambda: check_range("ids", ids, NO_ID, kernel.shape[0] or tf.shape(kernel)[0]),
    )
    places, rows, row = _chosen_rows(ids)
    scales = tf.gather_nd(values, places)[:, tf.newaxis]
    products = scales * _take(tf.gather(kernel, rows), row)
    units = kernel.shape[1] or tf.shape(kernel)[1]
    outputs = tf.scatter_nd(places[:, :1], products, [tf.shape(ids)[0], units])
    return tf.ensure_shape(outputs, [ids.shape[0], kernel.shape[1]])


def row_adam(
    variable: Any,
    momentum: Any,
    velocity: Any,
    last_step: Any,
    rows: Any,
    gradient: Any,
    alpha: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
    step: Any,
) -> None:
    """One Adam step, in place, on those rows of a variable that have a gradient.

    Adam as in Kingma & Ba 2015 ("Adam: A Method for Stochastic Optimization", algorithm
    1 with the reformulation at the end of section 2). A row that skipped `n` steps is
    caught up with first: its moments decay by `beta**n`, as they would have under zero
    gradients. The other rows are not touched.

    Args:
        variable: `[total_rows, ...]` variable, of any float dtype.
        momentum: First moments, a variable like `variable`.
        velocity: Second moments, a variable like `variable`.
        last_step: int32 `[total_rows]` variable: the step that last changed a row.
        rows: int32 `[R]`, strictly ascending.
        gradient: `[R, ...]`, the gradient of these rows.
        alpha: `learning_rate * sqrt(1 - beta_2**step) / (1 - beta_1**step)`, scalar.
        beta_1: Decay of the first moments, scalar.
        beta_2: Decay of the second moments, scalar.
        epsilon: Scalar.
        step: Number of this step, from 1; scalar.

    Raises:
        tf.errors.InvalidArgumentError: If rows are out of range or do not ascend.
    """
    variable, momentum, velocity, last_step = (
        v.value if isinstance(v, keras.Variable) else v
        for v in (variable, momentum, velocity, last_step)
    )
    rows = as_tensor("rows", rows, tf.int32, 1)
    gradient = as_tensor("gradient", gradient, variable.dtype, variable.shape.rank)
    row_shape = variable.shape[1:]
    expected = f"shape {rows.shape + row_shape}, a row for each of `rows`"
    require_shape("gradient", gradient, rows.shape + row_shape, expected)
    gradient = require_same_batch("gradient", gradient, "rows", rows)
    for name, scalar in (("alpha", alpha), ("step", step)):
        require_shape(name, tf.convert_to_tensor(scalar), [], "a scalar")
    rows = checked(
        rows,
        lambda: check_range("rows", rows, 0, variable.shape[0]),
        lambda: tf.debugging.assert_less(
            rows[:-1], rows[1:], "`rows` must be strictly ascending."
        ),
    )
    # Half precision cannot hold the moments' small changes: compute in float32.
    dtype = tf.float64 if variable.dtype == tf.float64 else tf.float32
    # 1 - 0.999 is off by 5e-5 if 0.999 is rounded to float32 before the subtraction.
    alpha, beta_1, beta_2, rest_1, rest_2, epsilon = (
        tf.cast(x, dtype) if tf.is_tensor(x) else tf.constant(x, dtype)
        for x in (alpha, beta_1, beta_2, 1 - beta_1, 1 - beta_2, epsilon)
    )
    step = tf.cast(step, tf.int64)
    previous = tf.cast(tf.gather(last_step, rows), tf.int64)
    skipped = tf.cast(tf.maximum(step - 1 - previous, 0), dtype)
    skipped = tf.reshape(skipped, [-1] + [1] * (variable.shape.rank - 1))

    gradient = tf.cast(gradient, dtype)
    m = tf.cast(tf.gather(momentum, rows), dtype) * beta_1**skipped
    v = tf.cast(tf.gather(velocity, rows), dtype) * beta_2**skipped
    m += (gradient - m) * rest_1
    v += (gradient * gradient - v) * rest_2
    change = m * alpha / (tf.sqrt(v) + epsilon)
    value = tf.cast(tf.gather(variable, rows), dtype) - change
    for target, new in ((variable, value), (momentum, m), (velocity, v)):
        target.scatter_update(tf.IndexedSlices(tf.cast(new, target.dtype), rows))
    last_step.scatter_update(
        tf.IndexedSlices(tf.fill(tf.shape(rows), tf.cast(step, tf.int32)), rows)
    )


def subtract_rows(variable: Any, rows: Any, values: Any) -> None:
    """Subtracts from rows of a variable, in place.

    Args:
        variable: `[total_rows, ...]`, a variable of any float dtype.
        rows: int32 `[R]`, in any order; what is given for one row several times adds
            up. The compiled op is fastest where they ascend strictly.
        values: `[R, ...]`.

    Raises:
        tf.errors.InvalidArgumentError: If a row is out of range.
    """
    variable = variable.value if isinstance(variable, keras.Variable) else variable
    rows, values = rows_of(variable, rows, values)
    rows = checked(rows, lambda: check_range("rows", rows, 0, variable.shape[0]))
    # The class's own: a variable may have this op for its `scatter_sub`.
    type(variable).scatter_sub(variable, tf.IndexedSlices(values, rows))


def _check_ascending(ids: tf.Tensor) -> Any:
    follows = tf.logical_and(ids[:, :-1] >= 0, ids[:, 1:] > ids[:, :-1])
    right = tf.logical_or(follows, ids[:, 1:] == NO_ID)
    return tf.debugging.Assert(
        tf.logical_and(tf.reduce_all(right), tf.reduce_all(ids[:, :1] >= NO_ID)),
        [
            "`ids` must ascend strictly in a row, with -1 in unused places at the end. "
            "Received:",
            ids,
        ],
    )


def _margins_by_table(margins: Any, tables: int, bits: int) -> tf.Tensor:
    require_integer("tables", tables, 1, MAX_INT32, "a positive integer")
    expected = f"an integer from 1 to {MAX_BITS}"
    require_integer("bits", bits, 1, MAX_BITS, expected)
    margins = as_tensor("margins", margins, tf.float32, 2)
    expected = f"shape (n, tables * bits) with tables={tables} and bits={bits}"
    require_shape("margins", margins, [None, tables * bits], expected)
    return tf.reshape(margins, [tf.shape(margins)[0], tables, bits])


def _checked_signs(name: str, vectors: tf.Tensor, signs: Any) -> tf.Tensor:
    """The signs of a rotation of these vectors."""
    signs = rotation(name, vectors, signs)

    def fit() -> Any:
        message = f"`signs` must have as many columns as `{name}`, or more."
        return tf.debugging.assert_less_equal(
            tf.shape(vectors)[1], tf.shape(signs)[1], message
        )

    return checked(signs, fit)


def _walsh_hadamard(x: tf.Tensor, size: int) -> tf.Tensor:
    """The transform of the last axis, of this size, by sums of two."""
    half, shape = 1, tf.shape(x)
    while half < size:
        x = tf.reshape(x, [-1, size // (2 * half), 2, half])
        a, b = x[:, :, 0], x[:, :, 1]
        x = tf.stack([a + b, a - b], axis=2)
        half *= 2
    return tf.reshape(x, shape)


def _flushed(x: tf.Tensor) -> tf.Tensor:
    """With 0 for subnormal numbers."""
    return tf.where(tf.abs(x) < _FLOAT_MIN, tf.zeros_like(x), x)


def _order(values: tf.Tensor) -> tf.Tensor:
    """int32 in the order of float32, -0 as 0, NaN as the largest but one."""
    bits = tf.bitcast(values, tf.int32)
    order = tf.where(bits < 0, tf.int32.min - bits, bits)  # -0.0 becomes 0
    return tf.where(tf.math.is_nan(values), tf.int32.max - 1, order)


def _float_bits(x: tf.Tensor) -> tf.Tensor:
    """Non-negative float32 as int64 in the same order."""
    return tf.cast(tf.bitcast(x, tf.int32), tf.int64)


def _float_from_bits(bits: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(tf.cast(bits, tf.int32), tf.float32)


def _scores(
    buckets: tf.Tensor, weights: tf.Tensor, offsets: tf.Tensor, table_ids: tf.Tensor
) -> tf.Tensor:
    """int32 [batch, units]: the weights of the probed buckets that contain a neuron."""
    tables, units = table_ids.shape
    per_table = offsets.shape[1] - 1
    buckets = checked(
        buckets,
        lambda: check_range("buckets", buckets, 0, tables * per_table),
        lambda: check_range("weights", weights, 1, 65537),
    )
    samples, probed = tf.unstack(tf.shape(buckets, tf.int64))
    bucket = tf.reshape(buckets, [-1])
    table = bucket // per_table
    at = bucket + table  # a table has one more offset than buckets
    flat_offsets = tf.reshape(offsets, [-1])
    begin, end = tf.gather(flat_offsets, at), tf.gather(flat_offsets, at + 1)
    corrupt = "The hash tables are corrupt (`offsets` do not ascend). Rebuild them."
    size = checked(
        tf.cast(end - begin, tf.int64),
        lambda: tf.debugging.assert_less_equal(begin, end, corrupt),
        lambda: check_range("offsets", begin, 0, units + 1),
        lambda: check_range("offsets", end, 0, units + 1),
    )
    # Collision i belongs to that probe in whose stretch of the running total it lies.
    ends = tf.cumsum(size)
    collision = tf.range(tf.reduce_sum(size))
    probe = tf.searchsorted(ends, collision, side="right", out_type=tf.int64)
    place = tf.cast(table, tf.int64) * units + tf.cast(begin, tf.int64) - (ends - size)
    ids = tf.gather(tf.reshape(table_ids, [-1]), tf.gather(place, probe) + collision)
    ids = checked(ids, lambda: check_range("table_ids", ids, 0, units))
    score = tf.math.unsorted_segment_sum(
        tf.gather(tf.reshape(weights, [-1]), probe),
        probe // tf.maximum(probed, 1) * units + tf.cast(ids, tf.int64),
        samples * units,
    )
    return tf.reshape(score, [samples, units])


def _forced_mask(forced: tf.Tensor, units: int, active: int) -> tf.Tensor:
    """bool [batch, units]"""
    forced = checked(forced, lambda: check_range("forced", forced, NO_ID, units))
    count = scatter_active(tf.cast(forced >= 0, tf.float32), forced, units)
    mask = count > 0
    most = tf.reduce_max(tf.math.count_nonzero(mask, axis=-1))
    return checked(
        mask,
        lambda: tf.debugging.assert_less_equal(
            most,
            tf.cast(active, tf.int64),
            f"`active`={active} neurons do not hold all the `forced` ones of a sample. "
            "Raise `active`.",
        ),
    )


def _fill_priority(seeds: tf.Tensor, batch: tf.Tensor, units: int) -> tf.Tensor:
    """int64 [batch, units], in [1, 2**31), highest first, or 0 if nothing fills."""
    if seeds.shape[0] == 0:
        return tf.constant(0, tf.int64)
    fill = tf.size(seeds) > 0
    seeds = checked(
        seeds,
        lambda: tf.debugging.assert_equal(
            tf.where(fill, tf.size(seeds), batch),
            batch,
            "`fill_seeds` must hold one seed a sample, or none at all.",
        ),
    )
    seeds = tf.cond(fill, lambda: seeds, lambda: tf.zeros([batch], tf.int32))
    seeds = tf.bitwise.bitwise_and(tf.cast(seeds, tf.int64), 0xFFFFFFFF)
    prime = _smallest_prime_from(max(units, 2))
    h1 = (seeds % _MODULUS * 48271 + 11) % _MODULUS
    h2 = (h1 * 16807 + 7) % _MODULUS
    a, c = 1 + h1 % (prime - 1), h2 % prime
    n = tf.range(units, dtype=tf.int64)
    rank = (a[:, tf.newaxis] * n + c[:, tf.newaxis]) % prime
    return tf.where(fill, prime - rank, 0)


def _smallest_prime_from(n: int) -> int:
    """The smallest prime that is not below `n >= 2`."""
    while any(n % d == 0 for d in range(2, math.isqrt(n) + 1)):
        n += 1
    return n


def _active_values(
    inputs: tf.Tensor, kernel: Any, bias: Any, ids: tf.Tensor
) -> tf.Tensor:
    places, rows, row = _chosen_rows(ids)
    used = tf.cast(tf.gather(kernel, rows), inputs.dtype)
    products = _take(used, row) * _take(inputs, places[:, 0])
    values = tf.reduce_sum(products, axis=-1)
    if bias is not None:
        values += _take(tf.gather(bias, rows), row)
    values = tf.scatter_nd(places, values, tf.shape(ids, tf.int64))
    return tf.ensure_shape(values, ids.shape)


def _probe_weights(own: tf.Tensor, costs: tf.Tensor) -> tf.Tensor:
    """What collisions are worth, in one's own buckets and in others of such costs."""
    worth = tf.maximum(tf.cast(65536.0 / (1.0 + costs), tf.int32), 1)
    return tf.concat([tf.fill(tf.shape(own), 65536), worth], axis=1)


def _chosen_rows(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The used places `[m, 2]`, the rows they name, and which of these each names."""
    # Unused places are left out, not masked: they must not touch a row's gradient.
    places = tf.where(ids >= 0)
    chosen = tf.gather_nd(ids, places)
    # One sorted and unique gather from the variable makes the gradient's rows so.
    rows, _ = tf.unique(tf.sort(chosen))
    return places, rows, tf.searchsorted(rows, chosen)


def _looked_at(
    points: tf.Tensor,
    centroids: tf.Tensor,
    middles: tf.Tensor,
    group_of: tf.Tensor,
    groups: int,
) -> tf.Tensor:
    """bool `[n, tables, cells]`: whether a point looks at a cell."""
    count = tf.shape(middles)[1]

    def in_range() -> Any:
        message = "`group_of` must be one of the groups of `middles`"
        return (
            tf.debugging.assert_non_negative(group_of, message),
            tf.debugging.assert_less(group_of, count, message),
        )

    group_of = checked(group_of, in_range)
    members = tf.one_hot(group_of, count)  # [tables, cells, groups]
    used = tf.reduce_any(members > 0, axis=1)
    distances = 0.5 * tf.reduce_sum(middles * middles, axis=-1)
    distances -= tf.einsum("nw,tgw->ntg", points, middles)
    distances = tf.where(used, distances, float("inf"))
    order = tf.argsort(tf.argsort(distances, stable=True), stable=True)  # ranks
    near = tf.gather(
        tf.transpose(order < groups, [1, 0, 2]), group_of, axis=2, batch_dims=1
    )
    no_numbers = tf.reduce_any(
        tf.math.is_nan(tf.concat([centroids, middles], axis=1)), axis=[1, 2]
    )
    few = tf.reduce_sum(tf.cast(used, tf.int32), axis=-1) <= groups
    everywhere = tf.logical_or(no_numbers, few)[:, tf.newaxis]
    return tf.logical_or(tf.transpose(near, [1, 0, 2]), everywhere)


def _take(params: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """tf.gather(params, indices), but with a dense gradient in `params`.

    `params` are small here, and TensorFlow would warn about the conversion.
    """
    return tf.gather(params[tf.newaxis], indices, axis=1)[0]


def _largest(
    values: tf.Tensor, ids: tf.Tensor, keep: int, forced: tf.Tensor | None
) -> tf.Tensor:
    """int32 [batch, keep]: the ids of the largest values, in their old order."""
    order = _order(tf.cast(values, tf.float32))
    if forced is not None:
        is_forced = ids[:, :, tf.newaxis] == forced[:, tf.newaxis, :]
        order = tf.where(tf.reduce_any(is_forced, axis=-1), tf.int32.max, order)
    key = tf.cast(order, tf.int64) * 2**31 + (_MODULUS - tf.cast(ids, tf.int64))
    key = tf.where(ids >= 0, key, tf.int64.min)
    _, places = tf.math.top_k(key, keep)
    end = tf.shape(ids)[1]
    places = tf.where(tf.gather(ids, places, batch_dims=1) >= 0, places, end)
    padded = tf.pad(ids, [[0, 0], [0, 1]], constant_values=NO_ID)
    return tf.gather(padded, tf.sort(places, axis=-1), batch_dims=1)


def _row_source(name: str, x: Any, rank: int, dtype: tf.DType | None = None) -> Any:
    """What tf.gather should take rows from: a variable as it is, or a tensor."""
    if isinstance(x, keras.Variable):
        x = x.value
    if not hasattr(x, "sparse_read"):
        with contextlib.suppress(TypeError, ValueError):  # as_weight says what is wrong
            x = tf.convert_to_tensor(x)
        is_float = isinstance(x, tf.Tensor) and x.dtype.is_floating
        return as_weight(name, x, rank, dtype or (x.dtype if is_float else tf.float32))
    expected = f"a variable of dtype {(dtype or tf.float32).name}"
    valid = x.dtype.is_floating and dtype in (None, x.dtype)
    require(valid, name, expected, x)
    return x
