"""Figures about a model's LSH layers: recall, precision, cost."""

from keras_lsh.diagnostics.report import LayerReport, Report, report

__all__ = ["LayerReport", "Report", "report"]
