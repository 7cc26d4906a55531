"""Plots of a report."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from keras_lsh.diagnostics.ranking import FALSE_POSITIVE_RATES
from keras_lsh.diagnostics.report import Report


def plot(report: Report, path: str | os.PathLike[str] | None = None) -> Any:
    """One figure of what a model's LSH layers select, and of what it costs.

    Six plots: the ROC curves of the scores, recall against the number of candidates
    (a dot: those of the layer), how the neurons are spread over the buckets, how often
    each neuron is selected, multiplications and bytes in percent of Dense's.

    Args:
        report: from `diagnostics.report`.
        path: file to write, in a format that its suffix tells, such as `.png`. None:
            none.

    Returns:
        The `matplotlib.figure.Figure`. A notebook shows it.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib, which cannot be imported. Install it with: "
            'pip install "keras_lsh[plot]"'
        ) from error

    # Not pyplot's: no window, no global state, right in a server as in a notebook.
    height = max(8.0, 4.5 + 0.9 * len(report.layers))
    figure = Figure(figsize=(13, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    colors = [f"C{number % 10}" for number in range(len(report.layers))]
    _roc(axes[0, 0], report, colors)
    _candidates(axes[0, 1], report, colors)
    _buckets(axes[0, 2], report, colors)
    _neurons(axes[1, 0], report, colors)
    parts = "selection", "products", "gradients", "observe", "rebuilds"
    kinds = {"inference": "inference", "training": "training"}
    _costs(axes[1, 1], report, "multiplications", parts, kinds)
    kinds = {
        "inference_bytes": "alone",
        "batch_bytes": f"batch of {report.batch_size}",
        "training_bytes": "training",
    }
    _costs(axes[1, 2], report, "bytes read of weights and tables", parts, kinds)
    figure.suptitle(f"Selection of {report.samples:,} samples")
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _roc(axes: Any, report: Report, colors: list[str]) -> None:
    for layer, color in zip(report.layers, colors, strict=True):
        axes.plot(
            FALSE_POSITIVE_RATES,
            layer.true_positive_rate,
            color=color,
            label=f"{layer.name} (AUC {layer.auc:.3f})",
        )
    axes.plot([0, 1], [0, 1], ":", color="gray", label="guessing")
    axes.set(
        title="Scores of the tables: ROC",
        xlabel="false positive rate",
        ylabel="true positive rate",
        ylim=(0, 1.02),
    )
    axes.legend(loc="lower right", fontsize="small")


def _candidates(axes: Any, report: Report, colors: list[str]) -> None:
    for layer, color in zip(report.layers, colors, strict=True):
        fraction = np.arange(1, layer.units + 1) / layer.units
        axes.plot(100 * fraction, layer.candidate_recall, color=color, label=layer.name)
        axes.plot(
            100 * layer.candidates / layer.units,
            layer.candidate_recall[layer.candidates - 1],
            "o",
            color=color,
        )
    axes.plot([0, 100], [0, 1], ":", color="gray")
    axes.set(
        title="How many candidates are needed",
        xlabel="candidates, % of the neurons (dot: as set)",
        ylabel="recall",
        ylim=(0, 1.02),
    )
    axes.legend(loc="lower right", fontsize="small")


def _buckets(axes: Any, report: Report, colors: list[str]) -> None:
    if all(layer.bucket_loads is None for layer in report.layers):
        axes.set_axis_off()
        return
    for layer, color in zip(report.layers, colors, strict=True):
        if layer.bucket_loads is None:
            continue
        loads = layer.bucket_loads.loads
        # The share of the neurons in the fullest 1, 2, ... buckets, mean over tables.
        share = np.cumsum(-np.sort(-loads, axis=1), axis=1) / layer.units
        buckets = np.arange(loads.shape[1] + 1) / loads.shape[1]
        share = np.concatenate([[0.0], share.mean(axis=0)])
        empty = 100 * layer.bucket_loads.empty.mean()
        label = f"{layer.name} ({empty:.0f} % empty)"
        axes.plot(100 * buckets, 100 * share, color=color, label=label)
    axes.plot([0, 100], [0, 100], ":", color="gray", label="all alike")
    axes.set(
        title="Bucket loads",
        xlabel="fullest buckets, % of all",
        ylabel="% of the neurons that they hold",
        ylim=(0, 102),
    )
    axes.legend(loc="lower right", fontsize="small")


def _neurons(axes: Any, report: Report, colors: list[str]) -> None:
    for layer, color in zip(report.layers, colors, strict=True):
        often = 100 * np.sort(layer.selected)[::-1] / layer.samples
        place = 100 * np.arange(1, layer.units + 1) / layer.units
        label = f"{layer.name} ({100 * layer.dead:.0f} % dead)"
        axes.step(place, often, where="mid", color=color, label=label)
    axes.set(
        title="How often neurons are selected",
        xlabel="neurons, % of all, most often selected first",
        ylabel="% of the samples",
        ylim=(0, None),
    )
    axes.legend(loc="upper right", fontsize="small")


def _costs(
    axes: Any,
    report: Report,
    title: str,
    parts: tuple[str, ...],
    kinds: dict[str, str],
) -> None:
    labels, costs = [], []
    for layer in report.layers:
        for kind, label in kinds.items():
            costs.append(getattr(layer, kind))
            labels.append(f"{layer.name}, {label}")
    bottoms = np.zeros(len(costs))
    places = np.arange(len(costs))
    for number, part in enumerate(parts):
        shares = np.array([100 * getattr(cost, part) / cost.dense for cost in costs])
        if shares.any():
            axes.barh(places, shares, left=bottoms, color=f"C{number}", label=part)
        bottoms += shares
    for place, total in zip(places, bottoms, strict=True):
        axes.annotate(
            f"{total:.0f} %",
            (total, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.axvline(100, linestyle=":", color="gray")
    axes.set_yticks(places, labels, fontsize="small")
    axes.invert_yaxis()
    axes.set(title=title.capitalize(), xlabel="% of Dense")
    axes.set_xlim(0, 1.15 * max(bottoms.max(), 100))
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize="small"
    )
