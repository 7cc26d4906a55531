"""Tables and plots made from rows, and from nothing else."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np


def by(name: str, rows: Sequence[dict[str, Any]]) -> dict[Any, list[float]]:
    """The accuracies of rows, seed by seed, for each value of one of their fields."""
    values = sorted({row[name] for row in rows})
    return {
        value: [row["accuracy"] for row in rows if row[name] == value]
        for value in values
    }


def percent(accuracies: Sequence[float]) -> str:
    """The median and, of several seeds, the range: `88.1 (87.9-88.3)`."""
    shown = [f"{100 * value:.1f}" for value in (min(accuracies), max(accuracies))]
    median = f"{100 * np.median(accuracies):.1f}"
    return median if len(accuracies) == 1 else f"{median} ({'-'.join(shown)})"


def write(
    rows: pathlib.Path,
    doc: str | None,
    headings: Sequence[str],
    table: Sequence[Sequence[Any]],
    panels: dict[str, dict[str, dict[Any, list[float]]]],
    abscissa: str,
    ordinate: str = "test accuracy",
    to_scale: bool = False,
    unit: str = "%",
) -> None:
    """Writes a table (`.md`) and a plot (`.svg`) beside a file of rows, and says where.

    Args:
        rows: the file.
        doc: what the experiment is; its first line becomes the title.
        headings: of the table's columns.
        table: its rows.
        panels: for each panel of the plot, for each of its curves, the accuracies at
            each point.
        abscissa: what the points are.
        ordinate: what the accuracies are.
        to_scale: whether the points are numbers, to be drawn at their places; if not,
            they are evenly spaced.
        unit: of the table's values. The plot is in %.
    """
    title = (doc or "").split("\n")[0]
    lines = [
        f"# {title}",
        "",
        f"{ordinate.capitalize()} in {unit}, median over seeds (and range); made by "
        f"`benchmarks/accuracy/{rows.stem}.py` from [{rows.name}]({rows.name}).",
        "",
        markdown(headings, table),
    ]
    if panels:
        lines += ["", f"![{title}]({rows.stem}.svg)"]
    target = rows.with_suffix(".md")
    target.write_text("\n".join(lines) + "\n")
    print(f"\n{markdown(headings, table)}\n\nTable: {target.resolve()}")
    if panels:
        path = rows.with_suffix(".svg")
        plot(path, title, panels, abscissa, ordinate, to_scale)
        print(f"Plot:  {path.resolve()}")


def markdown(headings: Sequence[str], table: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *table]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def plot(
    path: pathlib.Path,
    title: str,
    panels: dict[str, dict[str, dict[Any, list[float]]]],
    abscissa: str,
    ordinate: str,
    to_scale: bool,
) -> None:
    """Median accuracies with their range as bands."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(len(panels), 2)
    figure, axes = plt.subplots(
        -(-len(panels) // columns),
        columns,
        figsize=(5.5 * columns, 3.8 * -(-len(panels) // columns)),
        layout="constrained",
        squeeze=False,
    )
    figure.suptitle(title, wrap=True)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, curves) in zip(axes.flat, panels.items(), strict=False):
        points = list(dict.fromkeys(p for curve in curves.values() for p in curve))
        places = {point: index for index, point in enumerate(points)}
        for label, curve in curves.items():
            x = [point if to_scale else places[point] for point in curve]
            values = [100 * np.array(curve[point]) for point in curve]
            (line,) = axis.plot(
                x, [np.median(v) for v in values], marker="o", ms=4, label=label
            )
            axis.fill_between(
                x,
                [v.min() for v in values],
                [v.max() for v in values],
                color=line.get_color(),
                alpha=0.15,
            )
        axis.set(title=name, xlabel=abscissa, ylabel=f"{ordinate}, %")
        if not to_scale:
            axis.set_xticks(range(len(points)), [str(point) for point in points])
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    # The same bytes from the same rows.
    matplotlib.rcParams["svg.hashsalt"] = path.stem
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
