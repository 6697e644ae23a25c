"""The figures of the report: small SVG panels that take on the page's colour of text, for day, night and print.

Each function returns one ``<svg>`` as text. Panels are small because a page sets several beside each other on a wide
screen and below each other on a phone.
"""

import io
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from robodiff.evaluation.results import EpisodeResult
from robodiff.report.pages import to_json
from robodiff.text import shortened

INK = "#123456"  # stands for the page's colour of text until the figure is done
COLOURS = ("#3b82f6", "#f08c00", "#22a06b", "#e5484d", "#a855f7", "#06b6d4", "#d6409f", "#84a20d")
GOOD, BAD = COLOURS[2], COLOURS[3]
STYLES = ("-", "--")
"""Of the curves of a state and of an action."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of data may hold a dollar
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    **{f"axes.{part}color": INK for part in ("edge", "label", "title")},
    **{f"{part}.color": INK for part in ("xtick", "ytick", "text", "grid")},
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    "axes.prop_cycle": cycler(color=COLOURS),
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "path.simplify_threshold": 0.4,
}
MOST_POINTS = 300
"""Of a line whose values are told under the pointer."""
CHARACTER = 0.085
"""Inches across a wide character of a tick label."""
BESIDE = 0.2
"""Share of the width that a histogram beside curves takes."""
Curve = tuple[Sequence[float], Sequence[float]]
Draw = Callable[[Axes], Any]


def panel(
    draw: Draw,
    title: str,
    size: tuple[float, float] = (3.6, 2.2),
    frame: bool = True,
    above: float = 0.1,
    hover: str | None = None,
) -> str:
    """Draw one pair of axes and return it as SVG, and its title as text, which the page can wrap.

    Args:
        draw: fills the axes.
        title: of the panel, also what a screen reader says.
        size: width and height in inches.
        frame: leave room for ticks and labels.
        above: room over the axes in inches.
        hover: how a place on the x axis is told, such as ``step {}``, with the lines' values there: ``curves.js`` tells
            them under the pointer. None where they are not told.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=size)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(FewestDigits())
        draw(axes)
        if frame:
            _fit_labels(axes, *size, above)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}, dpi=96)
        values = f' data-lines="{escape(to_json(_lines(axes, hover)))}"' if hover else ""
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)  # which is no HTML
    svg = re.sub(r"font-family: [^;]*;", "", svg)  # the page's own
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    # Names within a figure must not meet those of another on the same page.
    prefix = f"f{zlib.crc32(svg.encode(errors='replace')):08x}-"
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    head, _, body = svg.partition(">")
    box = re.search(r'viewBox="[^"]+"', head)
    text = escape(title)
    caption = f'<p class="title" aria-hidden="true">{text}</p>'
    return f'<svg {box[0] if box else ""} role="img" aria-label="{text}"{values}>{body}{caption}'


def _lines(axes: Axes, hover: str) -> dict[str, Any]:
    """Return where the axes lie in their figure, as shares of it, what they span, and their lines.

    Points that no line joins are ``scattered``: there may be several at one place, and there is nothing between.
    """
    place = axes.get_position()
    lines = [line for line in axes.get_lines() if line.get_transform() == axes.transData]
    return {
        "box": [place.x0, 1 - place.y1, place.x1, 1 - place.y0],
        "x": axes.get_xlim(),
        "y": axes.get_ylim(),
        "log": [axes.get_xscale() == "log", axes.get_yscale() == "log"],
        "place": hover,
        "lines": [
            {
                "name": "" if (label := str(line.get_label())).startswith("_") else label.strip("\u2060 "),
                "colour": str(line.get_color()).replace(INK, "currentColor"),
                "scattered": line.get_linestyle() == "None",
                "points": [
                    [float(f"{number:.5g}") for number in point] for point in _thinned(np.asarray(line.get_xydata()))
                ],
            }
            for line in lines
        ],
    }


def _thinned(points: np.ndarray) -> np.ndarray:
    """Return at most ``MOST_POINTS`` of points (N, 2), the last among them."""
    return points[:: -max(1, math.ceil(len(points) / MOST_POINTS))][::-1]


class FewestDigits(Formatter):
    """Write ticks with no more digits than they need, without an offset or a power that stands elsewhere."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        """Return one tick."""
        return self.format_ticks([value])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return all ticks of an axis, with the same number of decimals."""
        ticks = np.asarray(values, np.float64)
        steps = np.diff(ticks) if len(ticks) > 1 else ticks
        close = 0.01 * np.abs(steps).min(initial=np.inf, where=steps != 0)
        decimals, powers = (self._fewest(ticks, close, kind) for kind in "fe")
        return decimals if max(map(len, decimals), default=0) <= max([6, *map(len, powers)]) else powers

    def _fewest(self, ticks: np.ndarray, close: float, kind: str) -> list[str]:
        texts: list[str] = []
        for digits in range(17):
            texts = [f"{tick:.{digits}{kind}}" for tick in ticks]
            if all(abs(float(text) - tick) <= close for text, tick in zip(texts, ticks, strict=True)):
                break
        texts = ["0" if kind == "e" and float(text) == 0 else text for text in texts]
        texts = [re.sub(r"^-(?=[0.]+$)", "", re.sub(r"e\+?(-?)0*(?=\d)", r"e\1", text)) for text in texts]
        return [text.replace("-", "\N{MINUS SIGN}") for text in texts]


def _fit_labels(axes: Axes, width: float, height: float, above: float) -> None:
    """Leave as much room around the axes as their labels need, in inches, and draw fewer ticks where they would meet.

    Labels are measured by their characters: to lay them out first takes longer than to draw them.
    """

    def longest(axis: Axis) -> float:
        return CHARACTER * max(
            map(len, axis.get_major_formatter().format_ticks(axis.get_majorticklocs().tolist())), default=0
        )

    titles = [CHARACTER * 2.2 * bool(axis.get_label_text()) for axis in (axes.xaxis, axes.yaxis)]
    left, right, bottom = longest(axes.yaxis) + 0.12 + titles[1], 0.06, 0.26 + titles[0]
    for ticks in range(round(1.4 * width), 0, -1):
        axes.locator_params("x", nbins=ticks)
        label = longest(axes.xaxis)
        left, right = max(left, label / 2), max(right, label / 2)
        if (label + CHARACTER) * len(axes.get_xticks()) <= width - left:
            break
    beside = 1 - BESIDE if axes.child_axes else 1
    across, up = (width - left - right) / width, (height - bottom - above) / height
    axes.set_position((left / width, bottom / height, across * beside, up))


_PANELS = (
    ("Success in rollouts", ["rollout/success_rate"], False),
    ("Mean maximum reward in rollouts", ["rollout/mean_max_reward"], False),
    ("Loss", ["train/loss", "val/loss"], True),
    ("Error of sampled actions, held out (mean action: 1)", ["val/action_mse"], True),
    ("Gradient norm", ["train/grad_norm"], True),
    ("Learning rate", ["train/learning_rate"], False),
)
"""The title of each panel of training, its quantities, and whether its axis is logarithmic."""
_NOT_DRAWN = {"train/loss_std", "train/loss_min", "train/loss_max", "rollout/non_finite_actions"}
MOST_PANELS = 12
"""Further panels, of quantities that a policy or an environment adds."""


def curves(runs: Mapping[str, Mapping[str, Curve]], success: float | None = None) -> list[str]:
    """Draw a panel for each logged quantity that any of the runs has; several runs are drawn over each other.

    Quantities without a panel of their own share one by the end of their names: ``train/kl`` and ``val/kl``.

    Args:
        runs: per name of a run its quantities, each as (steps, values).
        success: the reward that counts as success, if there is one.
    """
    logged = list(dict.fromkeys(key for quantities in runs.values() for key in quantities))
    further: dict[str, list[str]] = {}
    for key in set(logged).difference(_NOT_DRAWN, *(keys for _, keys, _ in _PANELS)):
        further.setdefault(key.partition("/")[2] or key, []).append(key)
    panels = []
    named = [(name.replace("_", " "), sorted(further[name]), False) for name in sorted(further)]
    for title, keys, log in [*_PANELS, *named[:MOST_PANELS]]:
        if keys := [key for key in keys if key in logged]:
            panels.append(
                panel(lambda axes, keys=keys, log=log: _curve(axes, runs, keys, log, success), title, hover="step {}")
            )
    return panels


def _curve(
    axes: Axes, runs: Mapping[str, Mapping[str, Curve]], keys: list[str], log: bool, success: float | None
) -> None:
    for colour, (name, quantities) in zip(_colours(len(runs)), runs.items(), strict=True):
        for number, key in enumerate(keys):
            if key not in quantities:
                continue
            steps, values = quantities[key]
            label = " ".join([_legend(name)] * (len(runs) > 1) + [key.partition("/")[0]] * (len(keys) > 1))
            own = colour if len(runs) > 1 else COLOURS[number % len(COLOURS)]
            marker = "o" if len(steps) < 15 else None
            style = "--" if number and len(runs) > 1 else "-"
            axes.plot(steps, values, style, color=own, label=label, marker=marker, markersize=3, linewidth=1.3)
    if log:
        axes.set_yscale("log")
        _logarithmic_ticks(axes)
    elif keys[0] in ("rollout/success_rate", "rollout/mean_max_reward"):
        values = [value for quantities in runs.values() for value in quantities.get(keys[0], ((), ()))[1]]
        _zero_to_one(axes, values, success if keys[0] == "rollout/mean_max_reward" else None)
    axes.set_xlabel("optimizer steps")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7)


def _logarithmic_ticks(axes: Axes) -> None:
    """Set the ticks of a logarithmic axis so that two at least are told apart, however wide or narrow its range."""
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    for locator in (LogLocator(subs=(1, 2, 5), numticks=7), LogLocator(numticks=7)):
        axes.yaxis.set_major_locator(locator)
        texts = [f"{tick:g}" for tick in axes.get_yticks() if low <= tick <= high]
        if len(set(texts)) == len(texts) > 1:
            return
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FewestDigits())


def scores(episodes: Sequence[EpisodeResult], success: float | None = None) -> str:
    """Draw the maximum reward of every episode, by seed, successes and failures told apart by colour and by height.

    Args:
        episodes: in any order.
        success: the reward that counts as success, if there is one.
    """

    def draw(axes: Axes) -> None:
        for succeeded, colour, label in ((True, GOOD, "success"), (False, BAD, "failure")):
            chosen = [e for e in episodes if e.success is succeeded]
            if chosen:
                axes.bar([e.seed for e in chosen], [e.max_reward for e in chosen], color=colour, label=label)
        axes.set_xlabel("seed")
        axes.set_ylabel("maximum reward")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _zero_to_one(axes, [e.max_reward for e in episodes], success)
        axes.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)

    return panel(draw, "Maximum reward of each episode", (7.4, 2.3), above=0.25)


def _zero_to_one(axes: Axes, values: Sequence[float], success: float | None) -> None:
    """Show all of 0 to 1, and what is beyond, with a line at the reward that counts as success."""
    low, high = min(0.0, *values), max(1.0, success or 0.0, *values)
    axes.set_ylim(low, high + 0.03 * (high - low))
    if success is not None:
        axes.axhline(success, color=GOOD, linestyle="--", linewidth=1, label=f"reward of a success: {success:g}")


def errors_by_step(errors: Mapping[str, Sequence[float]], holding: Sequence[float], executed: int) -> str:
    """Draw how errors grow over the steps of a chunk, as shares of that of holding the last action.

    Args:
        errors: per dimension (n,).
        holding: (n,), of holding the last action.
        executed: how many of the steps are executed; they are shaded.
    """

    def draw(axes: Axes) -> None:
        for colour, (name, values) in zip(_colours(len(errors)), errors.items(), strict=True):
            axes.plot(values, color=colour, label=_legend(name), linewidth=1.3, marker="o" if len(values) < 2 else None)
        axes.plot(holding, "--", color=INK, label="holding the last action", linewidth=1.3)
        axes.axvspan(-0.5, executed - 0.5, color=INK, alpha=0.06, linewidth=0)
        axes.set_xlim(-0.5, len(holding) - 0.5)
        rows_of_legend = 1 + len(errors) // 3
        axes.set_ylim(0, axes.get_ylim()[1] * (1 + 0.15 * rows_of_legend))
        axes.set_xlabel("step of the chunk, from now on")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=7, ncols=3, loc="upper left")

    return panel(draw, "Error by step, as a share of that of holding the last action", (7.4, 2.8), hover="step {}")


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _legend(name: str) -> str:
    """Return a name as a legend can show it: matplotlib leaves names out that begin with an underscore."""
    return f"\u2060{shortened(name, 28)}"
