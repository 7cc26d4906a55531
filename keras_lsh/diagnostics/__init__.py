"""What the hashing really selects: figures, plots, cost."""

from keras_lsh.diagnostics.plotting import plot
from keras_lsh.diagnostics.ranking import FALSE_POSITIVE_RATES
from keras_lsh.diagnostics.report import BucketLoads, Cost, LayerReport, Report, report

__all__ = [
    "FALSE_POSITIVE_RATES",
    "BucketLoads",
    "Cost",
    "LayerReport",
    "Report",
    "plot",
    "report",
]
