"""Plots as PNG files beside the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def lines(
    name: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    x_label: str,
    y_label: str,
    title: str,
    is_logarithmic: bool = True,
) -> None:
    """Draw lines over axes, both logarithmic or both from 0 on, into `name`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=110)
    for label, points in series:
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    if is_logarithmic:
        axes.set(xscale="log", yscale="log")
    else:
        axes.set(xlim=0, ylim=0)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend()
    figure.tight_layout()
    figure.savefig(HERE / name)
    pyplot.close(figure)


def bars(name: str, values: Sequence[tuple[str, float]], x_label: str, title: str) -> None:
    """Draw a bar for each value into `name`, the largest on top."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    ordered = sorted(values, key=lambda pair: pair[1])
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.34 * len(ordered)), dpi=110)
    drawn = axes.barh(
        [label for label, _ in ordered],
        [value for _, value in ordered],
        color=["#c8553d" if label.startswith("Alphavel") else "#8a9ba8" for label, _ in ordered],
    )
    axes.bar_label(drawn, fmt="{:,.0f}" if ordered[-1][1] >= 100 else "{:.2f}", padding=3, fontsize=8)
    axes.set(xlabel=x_label)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.suptitle(title, fontsize=10)  # over the whole figure: the names take much of its width
    axes.margins(x=0.14)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(HERE / name)
    pyplot.close(figure)
