"""How fast are the largest inner products found, at equal recall?

    pip install faiss-cpu falconn  # peers: what is not there is left out
    python benchmarks/retrieval.py --normalize --out rows.jsonl
    python benchmarks/retrieval.py --vectors items.npy --out rows.jsonl

The hash families of this package against FALCONN (cross-polytope and hyperplane, with
multi-probe), faiss' IndexLSH (with exact re-ranking), faiss' IVFFlat, and all products.
Vectors are stored once; then the `k` with the largest inner products are asked for, by
held-out vectors of the same kind. Everything runs in one thread.

Each method is built in some sizes (tables, cells), and each of these is searched with
some efforts (probes, candidates). Recall is the share of the true top `k` that is
found. The time at a recall is interpolated, linearly in its logarithm, between the two
neighbouring efforts of a size; the best size counts. Methods take turns, so that what
disturbs the one disturbs the others.

One JSON row per method, `k` and recall: median microseconds of a query and quartiles
over the rounds, and the ratio to IVFFlat's; no time where the recall was not reached.
Times are processor time of the process, all its threads together: of one thread, it is
what a clock shows on a machine with nothing else to do.

Queries go in batches of `--batch` to this package and to faiss; FALCONN takes one a
call. With `--batch 1` all do. This package's search is what `LSHDense.active_ids` does,
with the efforts exposed and no neurons drawn at random: hash, select candidates,
compute their products, keep the largest. It returns ids in ascending order, the others
by product.

Without `--vectors`, `--count` vectors of `--dim` elements are drawn: 2,000 clusters of
different sizes, whose centres and whose spreads lie near subspaces of 32 and 12
directions, with some noise in all. Vectors of items and words are like that; isotropic
ones have no neighbours to speak of. With `--normalize` all get unit length, and inner
products are cosines. FALCONN and IndexLSH, which know angles and distances only, get
one more coordinate that makes all norms equal (Simple-LSH, Neyshabur & Srebro 2015).
"""

import abc
import argparse
import itertools
import json
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import machine
import numpy as np
import tensorflow as tf

import keras_lsh
from keras_lsh import hashing, ops

try:
    import faiss
except ImportError:
    faiss = None
try:
    import falconn
except ImportError:
    falconn = None

RECALLS = 0.8, 0.9, 0.95


class Effort(NamedTuple):
    """How far a search goes: what it looks into, and how many products it computes.

    `probes` are buckets of all tables together (cells, for IVFFlat); None: all.
    `candidates` are None where all that is met is computed.
    """

    probes: int | None = None
    candidates: int | None = None


class Data(NamedTuple):
    """What is stored, what is asked for, and the answers."""

    vectors: np.ndarray  # float32 [count, dim]
    queries: np.ndarray  # float32 [queries, dim]
    truth: np.ndarray  # int64 [queries, k]

    def recall(self, found: np.ndarray) -> float:
        pairs = zip(found, self.truth, strict=True)
        hits = sum(len(np.intersect1d(*pair)) for pair in pairs)
        return hits / self.truth.size


def synthetic(count: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """float32 `[count, dim]`: see the docstring of this file."""
    clusters, wide, narrow = min(2000, count // 20), 32, 12

    def directions(rank: int) -> np.ndarray:
        return rng.normal(size=(rank, dim)) / np.sqrt(np.arange(1, rank + 1))[:, None]

    shares = rng.lognormal(sigma=1.0, size=clusters)
    of = rng.choice(clusters, count, p=shares / shares.sum())
    centers = rng.normal(size=(clusters, wide)) @ directions(wide)
    # Clusters share some sets of directions to spread in.
    spreads = np.stack([directions(narrow) for _ in range(32)])
    which = rng.integers(len(spreads), size=clusters)[of]
    x = centers[of]
    factors = rng.normal(size=(count, narrow))
    for spread in range(len(spreads)):
        x[which == spread] += factors[which == spread] @ spreads[spread]
    x += 0.3 * rng.normal(size=x.shape)
    x *= rng.lognormal(sigma=0.2, size=(count, 1))
    return x.astype(np.float32)


def largest(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """int64 `[queries, k]`, the ids of the largest inner products."""
    found = [
        np.argpartition(-(block @ vectors.T), k, axis=1)[:, :k]
        for block in np.array_split(queries, -(-len(queries) // 100))
    ]
    return np.concatenate(found)


def load(options: argparse.Namespace, k: int) -> Data:
    rng = np.random.default_rng(options.seed)
    if options.vectors:
        vectors = np.load(options.vectors).astype(np.float32)
    else:
        count = options.count + options.queries
        vectors = synthetic(count, options.dim, rng)
    if options.normalize:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors[rng.permutation(len(vectors))]
    queries, vectors = np.split(vectors, [options.queries])
    vectors, queries = np.ascontiguousarray(vectors), np.ascontiguousarray(queries)
    return Data(vectors, queries, largest(vectors, queries, k))


def on_sphere(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and queries of equal norms whose distances order as inner products do.

    `[count, dim + 1]` and `[queries, dim + 1]`, centred.
    """
    squares = np.sum(data.vectors**2, axis=1, keepdims=True)
    last = np.sqrt(np.maximum(squares.max() - squares, 0))
    vectors = np.concatenate([data.vectors, last], axis=1)
    norms = np.linalg.norm(data.queries, axis=1, keepdims=True)
    queries = data.queries * np.sqrt(squares.max()) / norms
    queries = np.pad(queries, [[0, 0], [0, 1]])
    center = vectors.mean(axis=0)
    return vectors - center, queries - center


class Index(abc.ABC):
    """A method that has stored vectors.

    Attributes:
        name: Of the method.
        size: What it was built with, as text.
        curves: Efforts to search with, in curves of rising recall.
    """

    name: str
    size: str
    curves: list[list[Effort]]

    @abc.abstractmethod
    def search(self, effort: Effort) -> np.ndarray:
        """The ids found, `[queries, k]`, -1 where there are too few."""

    def prepare(self, effort: Effort) -> None:  # noqa: B027
        """Does what a first search would, so that it takes no longer."""


class Ours(Index):
    """The tables of an LSHDense layer whose neurons are the vectors."""

    def __init__(self, family: hashing.HashFamily, data: Data, k: int, batch: int):
        self.name, self.size, self.k = type(family).__name__, repr(family), k
        if isinstance(family, hashing.KMeansCells):
            self.curves = [[Effort(None, k * 2**i) for i in range(1, 10)]]
        else:
            probes = [family.tables * 2**i for i in range(8)]
            self.curves = [
                [Effort(p, candidates) for p in probes]
                for candidates in (400, 1600, 6400)
                if candidates > k
            ]
        self.layer = keras_lsh.LSHDense(
            len(data.vectors), use_bias=False, active=k, hashing=family
        )
        self.layer.build([None, data.vectors.shape[1]])
        # Neither changes the order of a query's products. Without their common part,
        # the angles of vectors tell more; and beside the elements of a long query,
        # the 1 that is hashed for the bias counts little.
        self.layer.kernel.assign(data.vectors - data.vectors.mean(axis=0))
        scale = np.float32(100 / np.linalg.norm(data.queries, axis=1).mean())
        # Cells of a layer that has not seen inputs are those of plain k-means. Each
        # rebuild is some steps of it.
        learns = isinstance(family, hashing.KMeansCells)
        for _ in range(5 if learns else 1):
            self.layer.rebuild_tables()
        self.batches = [
            tf.constant(scale * data.queries[begin : begin + batch])
            for begin in range(0, len(data.queries), batch)
        ]
        self.functions: dict[Effort, Callable[[tf.Tensor], tf.Tensor]] = {}

    def prepare(self, effort: Effort) -> None:
        self.functions[effort] = self._function(effort)
        self.functions[effort](self.batches[0][:1])

    def search(self, effort: Effort) -> np.ndarray:
        function = self.functions[effort]
        return np.concatenate([function(x).numpy() for x in self.batches])

    def _function(self, effort: Effort) -> Callable[[tf.Tensor], tf.Tensor]:
        selector, kernel = self.layer.selector, self.layer.kernel
        family = selector.hashing
        if effort.probes:
            probes = min(effort.probes // family.tables, family.buckets)
            family = type(family)(**{**family.get_config(), "probes": probes})

        @tf.function(input_signature=[tf.TensorSpec([None, kernel.shape[1]])])
        def search(inputs: tf.Tensor) -> tf.Tensor:
            buckets, weights = family.input_probes(inputs, selector.state)
            candidates = ops.select_active(
                *(buckets, weights, selector.offsets, selector.table_ids),
                forced=tf.zeros([tf.shape(inputs)[0], 0], tf.int32),
                fill_seeds=tf.zeros([0], tf.int32),
                active=min(effort.candidates, kernel.shape[0]),
            )
            return ops.active_matmul(
                *(inputs, kernel, None, candidates, self.k),
                neuron_keys=selector.neuron_keys,
            )[1]

        return search


class Faiss(Index):
    """An index of faiss."""

    def __init__(self, queries: np.ndarray, k: int, batch: int):
        self.queries, self.k, self.batch = queries, k, batch

    def search(self, effort: Effort) -> np.ndarray:
        self.set(effort)
        begins = range(0, len(self.queries), self.batch)
        batches = (self.queries[begin : begin + self.batch] for begin in begins)
        return np.concatenate([self.index.search(x, self.k)[1] for x in batches])

    def set(self, effort: Effort) -> None:
        """Makes the index search so."""
        del effort


class Exact(Faiss):
    """All products."""

    name = "faiss IndexFlatIP"

    def __init__(self, data: Data, k: int, batch: int):
        super().__init__(data.queries, k, batch)
        self.size, self.curves = "all", [[Effort()]]
        self.index = faiss.IndexFlatIP(data.vectors.shape[1])
        self.index.add(data.vectors)


class IVFFlat(Faiss):
    name = "faiss IVFFlat"

    def __init__(self, cells: int, data: Data, k: int, batch: int):
        super().__init__(data.queries, k, batch)
        self.size = f"{cells} cells"
        probes = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192
        self.curves = [[Effort(probes=p) for p in probes if p <= cells]]
        dim = data.vectors.shape[1]
        self.quantizer = faiss.IndexFlatIP(dim)
        self.index = faiss.IndexIVFFlat(
            self.quantizer, dim, cells, faiss.METRIC_INNER_PRODUCT
        )
        self.index.train(data.vectors)
        self.index.add(data.vectors)

    def set(self, effort: Effort) -> None:
        self.index.nprobe = effort.probes


class IndexLSH(Faiss):
    """The codes of all vectors are compared, the products of the nearest computed."""

    name = "faiss IndexLSH"

    def __init__(self, bits: int, data: Data, k: int, batch: int):
        vectors, queries = on_sphere(data)
        super().__init__(queries, k, batch)
        self.size = f"{bits} bits"
        self.curves = [[Effort(candidates=k * 2**i) for i in range(6)]]
        self.codes = faiss.IndexLSH(vectors.shape[1], bits)
        self.index = faiss.IndexRefineFlat(self.codes)
        self.index.train(vectors)
        self.index.add(vectors)

    def set(self, effort: Effort) -> None:
        self.index.k_factor = effort.candidates / self.k


class Falconn(Index):
    def __init__(self, family: str, bits: int, tables: int, data: Data, k: int):
        self.name = f"FALCONN {family}"
        self.size, self.k = f"{bits} bits, {tables} tables", k
        self.curves = [[Effort(probes=tables * 2**i) for i in range(9)]]
        self.vectors, self.queries = on_sphere(data)
        parameters = falconn.get_default_parameters(*self.vectors.shape)
        parameters.lsh_family = getattr(falconn.LSHFamily, family)
        parameters.l, parameters.num_setup_threads = tables, 1
        falconn.compute_number_of_hash_functions(bits, parameters)
        self.table = falconn.LSHIndex(parameters)
        self.table.setup(self.vectors)
        self.query = self.table.construct_query_object()

    def search(self, effort: Effort) -> np.ndarray:
        self.query.set_num_probes(effort.probes)
        found = np.full([len(self.queries), self.k], -1)
        for row, query in zip(found, self.queries, strict=True):
            ids = self.query.find_k_nearest_neighbors(query, self.k)
            row[: len(ids)] = ids
        return found


def indexes(data: Data, k: int, batch: int) -> Iterator[Index]:
    """All methods, in sizes that suit the number of vectors."""
    count, dim = data.vectors.shape
    root, bits = math.sqrt(count), round(math.log2(count))
    for times, rank in ((5, 64), (6.5, 48), (8, 64), (13, 48), (16, 48)):
        family = hashing.KMeansCells(int(times * root), rank=min(dim, rank))
        yield Ours(family, data, k, batch)
    for code, tables in ((bits - 3, 10), (bits - 3, 20), (bits - 3, 40)):
        family = hashing.SimHash(code, tables, center=False)
        yield Ours(family, data, k, batch)
    vertices = 2 ** ((bits - 3) // 2 - 1)  # each with both signs, in two functions
    for tables in (10, 30):
        family = hashing.CrossPolytope(vertices, tables, functions=2, center=False)
        yield Ours(family, data, k, batch)
    if falconn:
        for name in ("Hyperplane", "CrossPolytope"):
            for code, tables in itertools.product((bits - 4, bits - 1), (10, 30, 60)):
                yield Falconn(name, code, tables, data, k)
    if faiss:
        for code in (128, 256):
            yield IndexLSH(code, data, k, batch)
        for cells in (root, 2 * root, 4 * root, 8 * root, 16 * root):
            yield IVFFlat(int(cells), data, k, batch)
        yield Exact(data, k, batch)


class Point:
    """An effort of an index: what it finds, and its times."""

    def __init__(self, index: Index, effort: Effort, data: Data):
        self.index, self.effort, self.queries = index, effort, len(data.queries)
        index.prepare(effort)
        start = time.process_time()
        found = index.search(effort)
        self.first = 1e6 * (time.process_time() - start) / self.queries
        self.recall = data.recall(found)
        self.times: list[float] = []  # microseconds of a query

    def run(self) -> None:
        start = time.process_time()
        self.index.search(self.effort)
        self.times.append(1e6 * (time.process_time() - start) / self.queries)


class Crossing:
    """Where a curve of an index reaches a recall."""

    def __init__(self, recall: float, below: Point | None, above: Point):
        self.recall, self.below, self.above = recall, below, above
        self.index = above.index

    def times(self) -> np.ndarray:
        """Microseconds of a query at the recall, by round."""
        high = np.log(self.above.times)
        if self.below is None or self.below.recall >= self.above.recall:
            return np.exp(high)
        low, span = np.log(self.below.times), self.above.recall - self.below.recall
        return np.exp(low + (high - low) * (self.recall - self.below.recall) / span)


def crossings(
    index: Index, data: Data, limit: float, known: dict[tuple[str, float], float]
) -> list[Crossing]:
    """Those of all curves and recalls. Curves go no further than they must.

    Args:
        index: What to search.
        data: What was stored.
        limit: Microseconds of a query: a curve ends where it takes longer, or twice as
            long as another size of the method takes for all that is still wanted.
        known: The least times so far, by method and recall; updated.
    """
    found = []
    for curve in index.curves:
        points: list[Point | None] = [None]
        wanted = list(RECALLS)
        for effort in curve:
            point = Point(index, effort, data)
            while wanted and point.recall >= wanted[0]:
                key = index.name, wanted[0]
                known[key] = min(point.first, known.get(key, limit))
                found.append(Crossing(wanted.pop(0), points[-1], point))
            points.append(point)
            if all(
                point.first > min(limit, 2 * known.get((index.name, recall), limit))
                for recall in wanted
            ):
                break
    return found


def measure(options: argparse.Namespace, k: int) -> list[dict[str, Any]]:
    data = load(options, k)
    candidates: list[Crossing] = []
    names: list[str] = []
    known: dict[tuple[str, float], float] = {}
    for index in indexes(data, k, options.batch):
        if any(name in index.name for name in options.only):
            names.append(index.name)
            candidates += crossings(index, data, options.limit, known)
    for point in points_of(candidates):
        point.times = [point.first]
    kept = [c for c in candidates if c.times()[0] < 1.5 * best_time(c, candidates)]
    for point in points_of(kept):
        point.times = []
    for _ in range(options.rounds):
        for point in points_of(kept):
            point.run()
    rows = []
    for recall in RECALLS:
        medians: dict[str, float] = {}
        of_recall = []
        for name in dict.fromkeys(names):
            row: dict[str, Any] = {
                "benchmark": "retrieval",
                "vectors": pathlib.Path(options.vectors).name
                if options.vectors
                else "synthetic",
                "count": data.vectors.shape[0],
                "dim": data.vectors.shape[1],
                "normalize": options.normalize,
                "queries": len(data.queries),
                "batch": 1 if name.startswith("FALCONN") else options.batch,
                "k": k,
                "recall": recall,
                "method": name,
            }
            own = [c for c in kept if (c.index.name, c.recall) == (name, recall)]
            if own:
                best = min(own, key=lambda c: float(np.median(c.times())))
                low, median, high = np.percentile(best.times(), [25, 50, 75])
                medians[name] = median
                row |= {
                    "us": round(median, 1),
                    "quartiles_us": [round(low, 1), round(high, 1)],
                    "size": best.index.size,
                    "probes": best.above.effort.probes,
                    "candidates": best.above.effort.candidates,
                }
            else:
                row |= {"us": None}
            of_recall.append(row)
        for row in of_recall:
            if row["us"] and IVFFlat.name in medians:
                ratio = medians[row["method"]] / medians[IVFFlat.name]
                row["times_ivfflat"] = round(ratio, 2)
        rows += of_recall
    facts = {"rounds": options.rounds} | machine.facts(options.seed)
    return [row | facts for row in rows]


def best_time(crossing: Crossing, others: list[Crossing]) -> float:
    """The first time of the best size of the same method at the same recall."""
    return min(
        other.times()[0]
        for other in others
        if other.index.name == crossing.index.name and other.recall == crossing.recall
    )


def points_of(found: list[Crossing]) -> list[Point]:
    """The points that these need, each once."""
    points = [point for c in found for point in (c.below, c.above) if point]
    return list({id(point): point for point in points}.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", help="float array [count, dim], a file of NumPy")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--normalize", action="store_true", help="to unit length")
    parser.add_argument("--queries", type=int, default=1000, help="held out")
    parser.add_argument("--batch", type=int, default=1000, help="queries a call")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--limit", type=float, default=1500, help="of a query's time, microseconds"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few vectors, briefly")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        help="methods with these in their names",
    )
    parser.add_argument("--out", help="file to add the rows to, besides stdout")
    options = parser.parse_args()
    if options.quick:
        options.count, options.dim, options.queries = 2000, 32, 50
        options.k, options.rounds = [10], 2
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")  # every effort is a function of its own
    keras.utils.set_random_seed(options.seed)
    for peer, name in ((faiss, "faiss-cpu"), (falconn, "falconn")):
        if peer is None:
            warnings.warn(f"Left out: `pip install {name}`", stacklevel=1)
    if faiss:
        faiss.omp_set_num_threads(1)
    for k in options.k:
        for row in measure(options, k):
            line = json.dumps(row)
            print(line, flush=True)
            if options.out:
                with open(options.out, "a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
