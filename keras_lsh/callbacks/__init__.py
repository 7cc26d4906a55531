"""Keras callbacks."""

from keras_lsh.callbacks.rebuild_tables import RebuildTables
from keras_lsh.callbacks.selection_monitor import SelectionMonitor

__all__ = ["RebuildTables", "SelectionMonitor"]
