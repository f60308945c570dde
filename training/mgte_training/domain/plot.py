"""Before and after as bars."""

from collections.abc import Mapping
from pathlib import Path

from mgte_rag.errors import MissingExtraError
from mgte_training.domain.comparison import Comparison


def draw(panels: Mapping[str, Comparison], path: str | Path) -> None:
    """Write a figure: one panel for each comparison, nDCG@10 of every way of searching before and after.

    Args:
        panels: by title.
        path: a file; the end of its name is the format: .svg, .png, .pdf.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    figure = Figure(figsize=(4.8 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, comparison) in zip(axes, panels.items(), strict=True):
        rows = [row for row in comparison.rows if row.figure.startswith("nDCG")]
        places = range(len(rows))
        before = axis.bar([place - 0.2 for place in places], [row.before for row in rows], 0.4, label="before")
        after = axis.bar([place + 0.2 for place in places], [row.after for row in rows], 0.4, label="after")
        for bars in (before, after):
            axis.bar_label(bars, fmt="%.3f", fontsize=8)
        axis.set_xticks(list(places), [row.way for row in rows])
        axis.set_title(title)
        axis.set_ylim(0, 1.05)
    axes[0].set_ylabel("nDCG@10")
    axes[0].legend()
    figure.savefig(path)
