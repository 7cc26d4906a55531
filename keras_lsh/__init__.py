"""Dense layers for Keras that compute only the neurons that matter."""

from keras_lsh import baselines, datasets, diagnostics, hashing, ops
from keras_lsh._version import __version__
from keras_lsh.callbacks import RebuildTables
from keras_lsh.conversion import convert_model, from_dense, to_dense
from keras_lsh.export import export_portable, freeze
from keras_lsh.hashing import L2ALSH, KMeansCells, SignALSH, SimHash, SimpleLSH
from keras_lsh.layers import LSHDense
from keras_lsh.optimizers import LazyAdam, LossScaleOptimizer

__all__ = [
    "L2ALSH",
    "KMeansCells",
    "LSHDense",
    "LazyAdam",
    "LossScaleOptimizer",
    "RebuildTables",
    "SignALSH",
    "SimHash",
    "SimpleLSH",
    "__version__",
    "baselines",
    "convert_model",
    "datasets",
    "diagnostics",
    "export_portable",
    "freeze",
    "from_dense",
    "hashing",
    "ops",
    "to_dense",
]
