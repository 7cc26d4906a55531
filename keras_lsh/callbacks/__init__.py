"""Keras callbacks."""

from keras_lsh.callbacks.rebuild_tables import RebuildTables

__all__ = ["RebuildTables"]
