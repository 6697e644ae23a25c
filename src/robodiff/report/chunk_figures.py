"""The figures of chunks: over a picture of the scene, over time, and what the network sees where they are sampled.

The page says once what the lines are: solid those that are sampled, dashed what was recorded.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robodiff.report import figures

Extent = tuple[float, float, float, float]


def chunk_over_scene(
    image: np.ndarray, extent: Extent, recorded: np.ndarray | None, sampled: np.ndarray, title: str
) -> str:
    """Draw chunks as paths over a picture of the scene.

    Args:
        image: (H, W, 3) uint8.
        extent: left, right, bottom and top of the picture in the units of the actions' first two dimensions.
        recorded: (n, Da), what the demonstrator did; None to leave it out.
        sampled: (S, n, Da), what the policy would do.
        title: above the panel.
    """

    def draw(axes: Axes) -> None:
        axes.imshow(image, extent=extent)
        for number, chunk in enumerate(sampled):
            strong = 1.0 if number == 0 else 0.4
            axes.plot(chunk[:, 0], chunk[:, 1], "-", color="#1d4ed8", linewidth=1.4 * strong, alpha=strong)
            axes.plot(*chunk[0, :2], ".", color="#1d4ed8", markersize=4, alpha=strong)
        if recorded is not None:
            axes.plot(recorded[:, 0], recorded[:, 1], "--", color="#c2410c", linewidth=2.0)
        axes.set_xlim(*extent[:2])
        axes.set_ylim(*extent[2:])
        if recorded is not None:
            _zoom(axes, np.concatenate([recorded, *sampled])[:, :2])
        axes.set_axis_off()

    return figures.panel(draw, title, (3.0, 3.0), frame=False)


def camera_view(image: np.ndarray, keypoints: np.ndarray | None, title: str) -> str:
    """Draw what the network sees of a camera, (H, W, 3) uint8, with the places (K, 2) in pixels that it looks at."""

    def draw(axes: Axes) -> None:
        axes.imshow(image)
        if keypoints is not None:
            axes.scatter(*keypoints.T, s=9, c=figures.COLOURS[1], edgecolors="#222222", linewidths=0.4)
        axes.set_axis_off()

    return figures.panel(draw, title, (3.0, 3.0), frame=False)


def _zoom(axes: Axes, places: np.ndarray) -> None:
    """Show a square around the places (N, 2) and what is near, within the picture."""
    low, high = places.min(0), places.max(0)
    for limits, set_limits, middle in (
        (axes.get_xlim(), axes.set_xlim, (low + high)[0] / 2),
        (axes.get_ylim(), axes.set_ylim, (low + high)[1] / 2),
    ):
        side = abs(limits[1] - limits[0])
        half = min(side / 2, max(0.7 * (high - low).max(), 0.27 * side))
        middle = np.clip(middle, min(limits) + half, max(limits) - half)
        set_limits(*(middle + np.sign(limits[1] - limits[0]) * np.array([-half, half])))


def chunk_over_time(recorded: np.ndarray | None, sampled: np.ndarray, dimension: int, title: str) -> str:
    """Draw one dimension of chunks over the steps of the chunk; shapes as in ``chunk_over_scene``."""

    def draw(axes: Axes) -> None:
        axes.plot(sampled[:, :, dimension].T, color=figures.COLOURS[0], alpha=0.7, linewidth=1)
        if recorded is not None:
            axes.plot(recorded[:, dimension], "--", color=figures.COLOURS[1], linewidth=2.0)
        axes.set_xlabel("step of the chunk")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return figures.panel(draw, title)
