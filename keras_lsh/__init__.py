"""Dense layers for Keras that compute only the neurons that matter."""

from keras_lsh import (
    baselines,
    datasets,
    diagnostics,
    hashing,
    losses,
    metrics,
    ops,
)
from keras_lsh._version import __version__
from keras_lsh.callbacks import RebuildTables, SelectionMonitor
from keras_lsh.conversion import (
    convert_model,
    from_dense,
    to_dense,
    with_inference,
    with_storage,
)
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
from keras_lsh.labels import label_scope
from keras_lsh.layers import LSHDense, SparseInputDense
from keras_lsh.models import LSHModel, LSHSequential
from keras_lsh.optimizers import LazyAdam, LossScaleOptimizer
from keras_lsh.tuning import tune

__all__ = [
    "L2ALSH",
    "CrossPolytope",
    "DensifiedWTAHash",
    "KMeansCells",
    "LSHDense",
    "LSHModel",
    "LSHSequential",
    "LazyAdam",
    "LossScaleOptimizer",
    "RandomBuckets",
    "RebuildTables",
    "SelectionMonitor",
    "SignALSH",
    "SimHash",
    "SimpleLSH",
    "SparseInputDense",
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
    "label_scope",
    "losses",
    "metrics",
    "ops",
    "to_dense",
    "tune",
    "with_inference",
    "with_storage",
]
