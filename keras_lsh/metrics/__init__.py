"""Keras metrics: of what a model ranks first, and of the selection."""

from keras_lsh.metrics.ranking import (
    Accuracy,
    NDCGAtK,
    PrecisionAtK,
    PropensityScoredPrecisionAtK,
    TopKAccuracy,
    propensities,
)
from keras_lsh.metrics.selection import SelectedMass, SelectionRecall

__all__ = [
    "Accuracy",
    "NDCGAtK",
    "PrecisionAtK",
    "PropensityScoredPrecisionAtK",
    "SelectedMass",
    "SelectionRecall",
    "TopKAccuracy",
    "propensities",
]
