"""The ops in plain NumPy and Python, from their definitions, without any cleverness.

The reference ops and the compiled ops are both tested against these. NumPy arrays in
and out; int32 ids and float32 values unless said otherwise.
"""

import itertools

import numpy as np

FLOAT = np.finfo(np.float32)


def hash_codes(margins, tables, bits):
    codes = np.zeros([len(margins), tables], np.int32)
    for i, t, j in np.ndindex(len(margins), tables, bits):
        # Subnormal numbers count as zero: TensorFlow's threads flush them.
        if margins[i, t * bits + j] >= FLOAT.tiny:
            codes[i, t] |= 1 << j
    return codes


def build_tables(codes, buckets):
    units, tables = codes.shape
    offsets = np.zeros([tables, buckets + 1], np.int32)
    ids = np.zeros([tables, units], np.int32)
    for t in range(tables):
        members = [
            [n for n in range(units) if codes[n, t] == c] for c in range(buckets)
        ]
        offsets[t, 1:] = np.cumsum([len(m) for m in members])
        ids[t] = [n for bucket in members for n in bucket]
    return offsets, ids


def probe_sequence(margins, tables, bits, probes):
    codes = hash_codes(margins, tables, bits)
    shape = len(margins), tables * probes
    buckets, weights = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for i in range(len(margins)):
        perturbations = []
        for t in range(tables):
            with np.errstate(over="ignore"):
                squares = margins[i, t * bits : (t + 1) * bits] ** 2
            squares = np.where(squares < FLOAT.max, squares, FLOAT.max)
            squares = np.where(squares < FLOAT.tiny, np.float32(0), squares)
            order = sorted(range(bits), key=lambda j: (squares[j], j))
            for size in range(1, bits + 1):
                for positions in itertools.combinations(range(bits), size):
                    cost, mask, code = np.float32(0), 0, codes[i, t]
                    for position in positions:
                        with np.errstate(over="ignore"):
                            cost = cost + squares[order[position]]
                        mask |= 1 << position
                        code ^= 1 << order[position]
                    perturbations.append((cost, t, mask, code))
        initial = [(np.float32(0), t, 0, codes[i, t]) for t in range(tables)]
        chosen = sorted(perturbations)[: tables * (probes - 1)]
        sequence = initial + sorted(chosen, key=lambda probe: probe[1:3])
        for p, (cost, t, _, code) in enumerate(sequence):
            buckets[i, p] = t * 2**bits + code
            weights[i, p] = max(1, int(np.float32(65536) / (np.float32(1) + cost)))
    return buckets, weights


def probe_digits(scores, probes, negatives):
    if negatives:
        scores = np.concatenate([scores, -scores], axis=-1)
    batch, tables, functions, values = scores.shape
    shape = batch, tables * probes
    buckets, weights = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for i in range(batch):
        own, others = [], []
        for t in range(tables):
            digits = []  # of each function, (cost, value) by place
            for of_value in scores[i, t]:
                largest = np.fmax.reduce(of_value)
                with np.errstate(over="ignore", invalid="ignore"):
                    squares = (largest - of_value) ** 2
                squares = np.where(squares < 1e9, squares, np.float32(1e9))
                squares = np.where(squares < FLOAT.tiny, np.float32(0), squares)
                ordered = sorted(zip(squares, range(values), strict=True))
                digits.append([(np.float32(0), ordered[0][1]), *ordered[1:]])
            for places in itertools.product(range(values), repeat=functions):
                cost, code = np.float32(0), 0
                for of_place, place in zip(digits, places, strict=True):
                    cost = cost + of_place[place][0]
                    code = code * values + of_place[place][1]
                probe = cost, t, places, t * values**functions + code
                (others if any(places) else own).append(probe)
        chosen = sorted(others)[: tables * (probes - 1)]
        sequence = own + sorted(chosen, key=lambda probe: probe[1:3])
        for p, (cost, _, _, bucket) in enumerate(sequence):
            buckets[i, p] = bucket
            weights[i, p] = max(1, int(np.float32(65536) / (np.float32(1) + cost)))
    return buckets, weights


def scores(buckets, weights, offsets, table_ids):
    """int64 [batch, units]"""
    per_table = offsets.shape[1] - 1
    total = np.zeros([len(buckets), table_ids.shape[1]], np.int64)
    for i, p in np.ndindex(*buckets.shape):
        t, c = divmod(int(buckets[i, p]), per_table)
        for place in range(offsets[t, c], offsets[t, c + 1]):
            total[i, table_ids[t, place]] += weights[i, p]
    return total


def fill_ranks(seed, units):
    """The ranks of all neurons in the fill order of one seed, as a list."""
    modulus = 2**31 - 1
    prime = max(units, 2)
    while any(prime % d == 0 for d in range(2, prime)):
        prime += 1
    h1 = (int(seed) % 2**32 % modulus * 48271 + 11) % modulus
    h2 = (h1 * 16807 + 7) % modulus
    a, c = 1 + h1 % (prime - 1), h2 % prime
    return [(a * n + c) % prime for n in range(units)]


def select_active(buckets, weights, offsets, table_ids, forced, fill_seeds, active):
    units = table_ids.shape[1]
    score = scores(buckets, weights, offsets, table_ids)
    ids = np.full([len(buckets), active], -1, np.int32)
    for i in range(len(buckets)):
        chosen = set(forced[i].tolist()) - {-1}
        found = [n for n in range(units) if score[i, n] > 0 and n not in chosen]
        found.sort(key=lambda n, i=i: (-score[i, n], n))
        chosen |= set(found[: active - len(chosen)])
        if len(fill_seeds):
            rank = fill_ranks(fill_seeds[i], units)
            others = sorted(set(range(units)) - chosen, key=lambda n: rank[n])
            chosen |= set(others[: active - len(chosen)])
        ids[i, : len(chosen)] = sorted(chosen)
    return ids


def active_matmul(inputs, kernel, bias, ids, keep=None):
    """In float64; `bias` may be None."""
    values = np.zeros(ids.shape, np.float64)
    for i, s in np.ndindex(*ids.shape):
        if ids[i, s] >= 0:
            values[i, s] = inputs[i].astype(np.float64) @ kernel[ids[i, s]]
            if bias is not None:
                values[i, s] += bias[ids[i, s]]
    return (values, ids) if keep is None else keep_largest(values, ids, keep)


def keep_largest(values, ids, keep, forced=None):
    kept_values = np.zeros([len(ids), keep], values.dtype)
    kept_ids = np.full([len(ids), keep], -1, np.int32)
    for i in range(len(ids)):

        def rank(s, i=i):
            value = values[i, s]
            if forced is not None and ids[i, s] in forced[i]:
                return (-1, 0, ids[i, s])
            return (
                0 if np.isnan(value) else 1,
                0 if np.isnan(value) else -value,
                ids[i, s],
            )

        places = [s for s in range(ids.shape[1]) if ids[i, s] >= 0]
        places = sorted(sorted(places, key=rank)[:keep])
        kept_values[i, : len(places)] = values[i, places]
        kept_ids[i, : len(places)] = ids[i, places]
    return kept_values, kept_ids


def active_matmul_gradients(gradient, inputs, kernel, ids):
    """Gradients by inputs, kernel and bias: dense, in float64."""
    by_inputs = np.zeros(inputs.shape, np.float64)
    by_kernel = np.zeros(kernel.shape, np.float64)
    by_bias = np.zeros(len(kernel), np.float64)
    for i, s in np.ndindex(*ids.shape):
        n = ids[i, s]
        if n >= 0:
            by_inputs[i] += np.float64(gradient[i, s]) * kernel[n]
            by_kernel[n] += np.float64(gradient[i, s]) * inputs[i]
            by_bias[n] += gradient[i, s]
    return by_inputs, by_kernel, by_bias


def scatter_active(values, ids, units):
    dense = np.zeros([len(ids), units], values.dtype)
    for i, s in np.ndindex(*ids.shape):
        if ids[i, s] >= 0:
            dense[i, ids[i, s]] = values[i, s]
    return dense


def row_adam(
    variable, momentum, velocity, last_step, rows, gradient, alpha, beta_1, beta_2,
    epsilon, step,
):  # fmt: skip
    """In place, in the arrays' dtype."""
    for i, row in enumerate(rows):
        skipped = max(0, step - 1 - int(last_step[row]))
        momentum[row] *= beta_1**skipped
        velocity[row] *= beta_2**skipped
        momentum[row] += (gradient[i] - momentum[row]) * (1 - beta_1)
        velocity[row] += (gradient[i] ** 2 - velocity[row]) * (1 - beta_2)
        variable[row] -= momentum[row] * alpha / (np.sqrt(velocity[row]) + epsilon)
        last_step[row] = step
