"""The figures of a recording: how long its episodes are, and how their dimensions move."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robodiff.report import figures


def histogram(values: np.ndarray, title: str, label: str) -> str:
    """Draw how often which value occurs; ``values`` (N,)."""

    def draw(axes: Axes) -> None:
        axes.stairs(*np.histogram(values, _edges(values)), fill=True, color=figures.COLOURS[0])
        axes.set_xlabel(label)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    return figures.panel(draw, title)


def _edges(values: np.ndarray) -> list[float]:
    """Return the edges of a histogram's bars."""
    low, high = float(values.min()), float(values.max())
    room = max(0.5, 1e-3 * abs(low)) if high - low <= 1e-9 * abs(high) else 0.0  # a constant needs some
    return np.linspace(low - room, high + room, 1 + min(40, max(5, len(np.unique(values[:1000]))))).tolist()


def curve(values: np.ndarray, title: str, label: str) -> str:
    """Draw values (N,) over their index."""

    def draw(axes: Axes) -> None:
        axes.plot(values, linewidth=1, marker="o" if len(values) < 15 else None, markersize=3)
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return figures.panel(draw, title)


def movement(keys: Sequence[tuple[Sequence[np.ndarray], np.ndarray]], title: str) -> str:
    """Draw how one dimension moves in some episodes and, beside that, how often which value occurs.

    Args:
        keys: of each key that has the dimension, the state before the action, its values in some episodes, each (L,),
            and many of all its values (N,).
        title: above the panel.
    """

    def draw(axes: Axes) -> None:
        beside = axes.inset_axes((1.02, 0, figures.BESIDE / (1 - figures.BESIDE), 1), sharey=axes)
        beside.set_axis_off()
        edges = _edges(np.concatenate([values for _, values in keys]))
        for (episodes, values), colour, style in zip(keys, figures.COLOURS, figures.STYLES, strict=False):
            for each in episodes:
                axes.plot(each, style, color=colour, linewidth=1, marker="o" if len(each) < 2 else None, markersize=3)
            counts, _ = np.histogram(values, edges)
            beside.stairs(counts, edges, orientation="horizontal", fill=True, color=colour, alpha=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return figures.panel(draw, title, (3.6, 1.9))
