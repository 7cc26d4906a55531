"""Keras metrics of the selection."""

from keras_lsh.metrics.selection import SelectedMass, SelectionRecall

__all__ = ["SelectedMass", "SelectionRecall"]
