"""Figures as SVG text: they stay sharp in print, and their words can be searched."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unirep_feast.errors import EvaluationError

#: Okabe and Ito (2008): told apart by people who do not see all colours; then grey for the rest.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#999999",
)  # fmt: skip
_INK, _FAINT = "#222222", "#B8B8B8"

#: Inches; a figure is shown as wide as its card is.
_WIDTH = 4.6


def leaderboard_figure(task: dict[str, Any], entries: Sequence[dict[str, Any]]) -> str:
    """Draw one task: a dot per representation with its standard deviation, best on top.

    Args:
        task: of the evaluation's document.
        entries: of its leaderboard, of this task and one share of the labels, best first.
    """
    plt = _pyplot()
    names = [entry["representation"] for entry in entries]
    rows = np.arange(len(names))[::-1]
    figure, axes = plt.subplots(figsize=(_WIDTH, 0.7 + 0.24 * len(names)))
    chance = (task.get("chance") or {}).get(task["metric"])
    if chance is not None:
        axes.axvline(chance, color=_FAINT, linestyle="--", linewidth=1)
    for row, entry in zip(rows, entries, strict=True):
        colour = COLOURS[0] if entry["best"] else _INK
        axes.errorbar(
            entry["mean"], row, xerr=entry["std"], fmt="o", color=colour, markersize=4, capsize=2
        )
    axes.set_yticks(rows, names)
    for label, entry in zip(axes.get_yticklabels(), entries, strict=True):
        label.set_fontweight("bold" if entry["best"] else "normal")
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(task["metric"] + ("" if task["higher_is_better"] else " (lower is better)"))
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color="#EEEEEE")
    if not task["higher_is_better"]:
        axes.invert_xaxis()  # better is to the right everywhere
    return _svg(figure)


def curves_figure(name: str, curves: Sequence[dict[str, Any]]) -> str:
    """Draw one measure of a training against steps, a line for each kind of record."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(_WIDTH, 2.4))
    for number, curve in enumerate(curves):
        label = {"step": "training", "validation": "validation"}.get(curve["kind"], curve["kind"])
        style = {"marker": "o", "markersize": 3} if len(curve["steps"]) < 40 else {}
        axes.plot(curve["steps"], curve["values"], color=COLOURS[number], label=label, **style)
    axes.set_xlabel("steps")
    axes.set_title(name, loc="left", fontsize=10)
    axes.grid(color="#EEEEEE")
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def map_figure(drawn: dict[str, Any]) -> str:
    """Draw users on a plane; points are pixels, words are words."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 5.4))
    x, y = np.array(drawn["x"]), np.array(drawn["y"])
    size = float(np.clip(12_000 / max(len(x), 1), 3, 30))
    style: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.75, "rasterized": True}
    if drawn["groups"]:
        group = np.array(drawn["group"])
        axes.scatter(x[group < 0], y[group < 0], color="#DDDDDD", **style)
        for number, name in enumerate(drawn["groups"]):
            some = group == number
            colour = COLOURS[min(number, len(COLOURS) - 1)]
            axes.scatter(x[some], y[some], color=colour, label=f"{name} ({some.sum():,})", **style)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, frameon=False, fontsize=9,
            markerscale=max(1.0, 6 / math.sqrt(size)),
        )  # fmt: skip
    else:
        lengths = np.log10(np.maximum(drawn["length"], 1))
        points = axes.scatter(x, y, c=lengths, cmap="viridis", **style)
        bar = figure.colorbar(points, ax=axes, shrink=0.7)
        ticks = [tick for tick in range(8) if lengths.min() <= tick <= lengths.max()]
        bar.set_ticks(ticks, labels=[f"{10**tick:,}" for tick in ticks])
        bar.set_label("events in the history")
    axes.set_axis_off()
    return _svg(figure)


def drift_figure(title: str, entries: Sequence[dict[str, Any]], measure: str) -> str:
    """Draw one measure over snapshots."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(_WIDTH, 2.2))
    shown = [entry for entry in entries if entry[measure] is not None]
    times = np.array([entry["as_of"].rstrip("Z") for entry in shown], "datetime64[s]")
    axes.plot(
        times, [entry[measure] for entry in shown], color=COLOURS[0], marker="o", markersize=4
    )
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.grid(color="#EEEEEE")
    figure.autofmt_xdate()
    return _svg(figure)


def _svg(figure: Any) -> str:
    plt = _pyplot()
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    # The same data give the same bytes: no date, and ids that do not depend on the process.
    figure.savefig(text, format="svg", bbox_inches="tight", dpi=170, metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise EvaluationError(
            "a report draws with matplotlib; pip install 'unirep-feast[report]'"
        ) from None
    mpl.use("agg")
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "unirep",
            "font.family": "sans-serif",
            "font.sans-serif": ["Arial", "Helvetica", "DejaVu Sans"],
            "font.size": 9,
            "axes.edgecolor": _FAINT,
            "axes.axisbelow": True,
        }
    )
    import matplotlib.pyplot as plt

    return plt
