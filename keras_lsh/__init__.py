"""Dense layers for Keras that compute only the neurons that matter."""

from keras_lsh import baselines, datasets, diagnostics, hashing, metrics, ops
from keras_lsh._version import __version__
from keras_lsh.callbacks import RebuildTables, SelectionMonitor
from keras_lsh.conversion import convert_model, from_dense, to_dense
from keras_lsh.export import export_portable, freeze
from keras_lsh.hashing import (
    L2ALSH,
    CrossPolytope,
    DensifiedWTAHash,
    KMeansCells,
    RandomBuckets,
    SignALSH,
    SimHash,
    SimpleLSH,
    WTAHash,
)
from keras_lsh.layers import LSHDense
from keras_lsh.optimizers import LazyAdam, LossScaleOptimizer
from keras_lsh.tuning import tune

__all__ = [
    "L2ALSH",
    "CrossPolytope",
    "DensifiedWTAHash",
    "KMeansCells",
    "LSHDense",
    "LazyAdam",
    "LossScaleOptimizer",
    "RandomBuckets",
    "RebuildTables",
    "SelectionMonitor",
    "SignALSH",
    "SimHash",
    "SimpleLSH",
    "WTAHash",
    "__version__",
    "baselines",
    "convert_model",
    "datasets",
    "diagnostics",
    "export_portable",
    "freeze",
    "from_dense",
    "hashing",
    "metrics",
    "ops",
    "to_dense",
    "tune",
]
