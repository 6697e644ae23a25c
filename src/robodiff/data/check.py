"""The data doctor: what is wrong with a recording, or unusual in it, and what to do about it. Imports no torch.

Each check is a function from episodes to findings; ``CHECKS`` is the table of them. What makes a recording unreadable
is found by its reader. Limits are set so that clean recordings, scripted or by hand, raise no warning.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial

import numpy as np

from robodiff.data.episodes import ACTION, INTERVENTION, SMALLEST_RANGE, Episodes, Finding, RecordingError, raise_faults
from robodiff.data.measures import LAGS, blank_and_same, episode_digests, lag_of, runs, steps
from robodiff.data.recordings import DataConfig
from robodiff.data.windows import WindowShape
from robodiff.documents import plain
from robodiff.errors import NotFetched, RobodiffError, UsageError, notice
from robodiff.text import counted, listed

STATE = "observation.state"
SEVERITIES = ("fatal", "warning", "note")
SPIKE = 100
"""A value that is further out than so many times the range of the middle 98 % leaves the rest under 1 % of [-1, 1]."""
BRIEF = 3
"""Frames in an episode for which a glitch lasts; what stays longer may be a rare move of a joint that mostly rests."""
JUMP = 8
"""A step of so many times the largest usual one (the 95 % quantile of the steps that move at all) is a jump."""
RARE = 0.1
"""What happens in a larger share of the episodes belongs to the task."""
FROZEN = 5
"""Equal images in a row, while the robot moves, that a camera does not give by chance."""
MOVES = 0.05
"""Share of its range by which a dimension changes when something moves."""
OUTLYING = 4
"""Robust standard deviations of the logarithm of an episode's length."""
SAMPLE = 50_000
"""Frames that are enough to measure a quantile or a correlation."""
MOST_ALIGNED = 10_000
"""Episodes whose actions are compared with those of the others; of more, some that are evenly spread."""

PLACE = ("path", "root", "repo_id", "cache_dir")
"""Options that say where a recording is."""
SPLIT = ("episodes", "val_split", "val_split_seed", "val_episodes")
BATCHES = ("train_batch_size", "val_batch_size", "num_workers", "delta_timestamps", "symmetries")
"""Options that say how it is trained on."""


def examine(source: DataConfig, window: WindowShape) -> list[Finding]:
    """Return everything that is found in a recording, worst first.

    Args:
        source: where it is, and what its keys are.
        window: the time steps of one training sample.

    Raises:
        UsageError: the file needs a layout, a key map or a rate that ``source`` does not give.
        NotFetched: it cannot be had from the hub.
    """
    try:
        episodes = source.read_chosen(salvage=True)
    except RecordingError as error:
        return by_severity([*error.findings])
    except (UsageError, NotFetched):
        raise
    except RobodiffError as error:
        return [Finding("fatal", "readable", str(error), "check the path, or record or copy it again")]
    return findings_in(episodes, window)


def findings_in(episodes: Episodes, window: WindowShape) -> list[Finding]:
    """Return everything that is found in what could be read, worst first."""
    findings = [*episodes.findings, *(finding for check in CHECKS for finding in check(episodes))]
    return by_severity([*findings, *too_short(episodes, window)])


def by_severity(findings: list[Finding]) -> list[Finding]:
    """Return findings, worst first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def read_sound(source: DataConfig, observation_keys: list[str] | None) -> Episodes:
    """Read what is to be trained on.

    Raises:
        RobodiffError: nothing to read, or a recording with which training would fail or be harmed.
    """
    try:
        episodes = source.read(observation_keys)
        findings = [finding for check in FATAL_CHECKS for finding in check(episodes)]
        chosen = {episodes.number(place) for place in source.chosen(episodes)}
        told = [each for each in (*findings, *episodes.findings) if each.episode is None or each.episode in chosen]
        raise_faults(episodes.source, (each for each in told if each.severity == "fatal"))
    except RecordingError as error:
        raise RobodiffError(f"{error}\nall that is wrong with it: {check_command(source)}") from None
    for each in told:
        notice(f"{episodes.source}: {each.message}; {each.advice}")
    return episodes


def check_command(source: DataConfig) -> str:
    """Return the command that checks a recording, or one for each of several."""
    return "; ".join(shlex.join(["robodiff", "data", "check", *words_of(part)]) for part in source.parts)


def words_of(source: DataConfig) -> list[str]:
    """Return how a command is told of a recording: its path, and what of it is not as usual."""
    words = [source.source]
    for field in fields(source):
        value = getattr(source, field.name)
        if field.name not in (*PLACE, *SPLIT, *BATCHES) and value != field.default:
            text = f"{value:g}" if isinstance(value, float) else json.dumps(plain(value))
            words += [f"--{field.name}", value if isinstance(value, str) else text]
    return words


def nothing_to_learn(episodes: Episodes) -> Iterator[Finding]:
    """Find no actions, or actions that are no numbers or never change."""
    fatal = partial(Finding, "fatal", "learnable")
    if ACTION not in episodes.arrays:
        if _is_whole(episodes):
            yield fatal(f"no key is called {ACTION}; there is {listed(episodes.arrays)}", "name it in the key map")
    elif episodes.features[ACTION].kind != "vector":
        yield fatal(f"action holds {episodes.features[ACTION].kind}s", "name another key in the key map", key=ACTION)
    elif not _moving(episodes.arrays[ACTION]).any():
        yield fatal("action never changes in any dimension", "record what the robot was told to do", key=ACTION)


def unclear_who_acted(episodes: Episodes) -> Iterator[Finding]:
    """Find values other than 0 and 1 where it is recorded who acted."""
    if INTERVENTION not in episodes.arrays:
        return
    acted = episodes.arrays[INTERVENTION]
    if (odd := np.flatnonzero(((acted != 0) & (acted != 1)).reshape(len(acted), -1).any(axis=1))).size:
        frame = int(odd[0])
        message = f"{INTERVENTION} must be 1 where an expert acted and 0 where a policy did; found"
        message += f" {acted[frame].flat[0]:g} at {episodes.where(frame)}"
        yield episodes.finding(frame, "fatal", "form", message, "mend it, or leave it out by a key map", INTERVENTION)


def nothing_to_see(episodes: Episodes) -> Iterator[Finding]:
    """Find no observations; ``fit`` refuses it where the policy is made."""
    if not any(key.startswith("observation.") for key in episodes.arrays) and _is_whole(episodes):
        message = "no key starts with observation.; a policy must see something"
        yield Finding("fatal", "learnable", message, "name one in the key map")


def spikes(episodes: Episodes) -> Iterator[Finding]:
    """Find single values so far out that scaling the range to [-1, 1] leaves nothing of all others."""
    for key, array in _vectors(episodes):
        first: dict[int, Finding] = {}  # by episode: one value is enough to say
        for dimension, column in enumerate(array.T):
            some = _sample(column)
            low, high = np.quantile(some, 0.01, method="higher"), np.quantile(some, 0.99, method="lower")
            outside = np.flatnonzero(np.maximum(column - high, low - column) > SPIKE * (high - low))
            where = episodes.at(outside)
            if high - low < SMALLEST_RANGE or not _rare(episodes, where) or np.bincount(where).max(initial=0) > BRIEF:
                continue  # what rests nearly always, such as a switch, is far out whenever it moves
            name, usual = _dimension(episodes, key, dimension), f"98 % of all frames have {low:.4g} to {high:.4g}"
            for episode, frame in zip(where.tolist(), outside.tolist(), strict=True):
                message = f"{name} is {column[frame]:.4g} at {episodes.where(frame)}, where {usual}"
                advice = "mend the value, or leave the episode out with data.episodes"
                first.setdefault(episode, episodes.finding(frame, "fatal", "spike", message, advice, key))
        yield from first.values()


def resting(episodes: Episodes) -> Iterator[Finding]:
    """Find dimensions that never change."""
    for key, array in _vectors(episodes):
        still = np.flatnonzero(~_moving(array))
        if not still.size or (key == ACTION and len(still) == array.shape[1]):
            continue  # no action at all is another finding
        message = f"{listed(_dimension(episodes, key, d) for d in still.tolist())} never changes"
        severity, advice = "note", "harmless; is the sensor connected?"
        if key == ACTION:
            severity, advice = "warning", "no policy can learn to move it; is that meant?"
        yield Finding(severity, "constant", message, advice, key)


def jumps(episodes: Episodes) -> Iterator[Finding]:
    """Find steps from a frame to the next that are far larger than usual; angles may wrap."""
    for key, array in _vectors(episodes):
        worst: dict[int, tuple[float, bool, str]] = {}  # by frame: how many times the usual step, is it rare, what
        for dimension, column in enumerate(array.T):
            far = steps(column, episodes.episode_ends)
            moving = _sample(far[far > 0])
            usual = max(np.quantile(moving, 0.95, method="lower") if moving.size else 0.0, SMALLEST_RANGE / JUMP)
            frames = np.flatnonzero(far > JUMP * usual)
            rare = _rare(episodes, episodes.at(frames))
            name = _dimension(episodes, key, dimension)
            for frame in frames.tolist():
                times = float(far[frame] / usual)
                text = f"{name} jumps by {far[frame]:.4g}, {times:.0f} times the largest usual step"
                worst[frame] = max(worst.get(frame, (0.0, rare, "")), (times, rare, text), key=lambda jump: jump[0])
        for frame, (_, rare, text) in sorted(worst.items()):
            message, severity = f"{text}, at {episodes.where(frame)}", "warning" if rare else "note"
            advice = "look at it: a lost frame, a glitch of the sensor, two episodes joined, or an angle that wraps?"
            yield episodes.finding(frame, severity, "jump", message, advice, key)


def duplicates(episodes: Episodes) -> Iterator[Finding]:
    """Find episodes with the same numbers; images are compared only where no other observation is."""
    keys = [key for key, _ in _vectors(episodes)]
    keys = keys if any(key.startswith("observation.") for key in keys) else list(episodes.arrays)
    digests = episode_digests([episodes.arrays[key] for key in keys], episodes.episode_ends)
    order = np.argsort(digests, kind="stable")  # alike ones stand together, the first of them first
    runs_of = np.split(order, np.flatnonzero(np.diff(digests[order])) + 1)
    for first, *others in (run.tolist() for run in runs_of if len(run) > 1):
        for episode in others:
            message = f"episode {episodes.number(episode)} is the same as episode {episodes.number(first)}"
            advice = "leave one out: it counts twice, and may be both trained on and held out"
            yield episodes.finding(episodes.slice(episode).start, "warning", "duplicate", message, advice)


def dead_images(episodes: Episodes) -> Iterator[Finding]:
    """Find images of one colour, and images that stand still while the robot moves."""
    vectors = [a for key, a in _vectors(episodes) if key != ACTION] or [a for _, a in _vectors(episodes)]
    moves = [(array, np.maximum(MOVES * np.ptp(array, axis=0), SMALLEST_RANGE)) for array in vectors]
    for key, feature in episodes.features.items():
        if feature.kind != "image":
            continue
        blank, same = blank_and_same(episodes.arrays[key])
        for episode in range(len(episodes)):
            frames = episodes.slice(episode)
            if blank[frames].any():
                frame, count = frames.start + int(np.argmax(blank[frames])), int(blank[frames].sum())
                message = f"{key} shows a single colour at {episodes.where(frame)}, in all {counted(count, 'time')}"
                advice = "cover off, light on, cable in? leave such frames out"
                yield episodes.finding(frame, "warning", "blank", message, advice, key)
            for start, stop in runs(same[frames] & ~blank[frames]):
                first, end = frames.start + max(0, start - 1), frames.start + stop
                moved = any((np.ptp(array[first:end], axis=0) > least).any() for array, least in moves)
                if moved and end - first > FROZEN:
                    still = f"{key} stays the same for {counted(end - first, 'frame')} from {episodes.where(first)}"
                    message, advice = f"{still}; the robot moves", "the camera hung; leave the episode out"
                    yield episodes.finding(first, "warning", "frozen", message, advice, key)


def misaligned(episodes: Episodes) -> Iterator[Finding]:
    """Find actions that explain the robot's moves best when they are taken from another frame."""
    vectors = dict(_vectors(episodes))
    if STATE not in vectors or ACTION not in vectors:
        return
    state, action = vectors[STATE], vectors[ACTION]
    inner = [np.arange(s.start - LAGS[0], s.stop - LAGS[-1]) for s in map(episodes.slice, range(len(episodes)))]
    usual = lag_of(state, action, _sample(np.concatenate(inner)))
    if usual is None:
        return
    expected = "usual is the action of the same frame or, on real robots, of up to 3 frames before"
    follows = f"the move from frame t to t + 1 follows the action of frame t {'-' if usual < 0 else '+'} {abs(usual)}"
    if usual > 0:
        advice = f"{expected}; shift the actions by {usual} towards the start of each episode"
        yield Finding("warning", "lag", f"{follows}: actions come too late", advice, ACTION)
    elif usual < 0:
        advice = f"{expected}; if the robot is faster than that, shift the actions towards the end of each episode"
        yield Finding("note", "lag", f"{follows}: the robot answers late", advice, ACTION)
    for episode in range(0, len(inner), 1 + len(inner) // MOST_ALIGNED):
        own = lag_of(state, action, inner[episode])
        if own is not None and own != usual:
            when, end = ("late", "start") if own > usual else ("early", "end")
            message = f"the actions of episode {episodes.number(episode)} come too {when}, unlike those of the others"
            advice = f"shift them by {abs(own - usual)} towards its {end}, or leave it out"
            yield episodes.finding(episodes.slice(episode).start, "warning", "lag", message, advice, ACTION)


def outlying_lengths(episodes: Episodes) -> Iterator[Finding]:
    """Find episodes far longer or shorter than the others."""
    logarithms = np.log(episodes.lengths)
    median = np.median(logarithms)
    far = np.abs(logarithms - median)
    # three times as long is no surprise where only a few episodes, by chance alike, tell how much lengths differ
    least = max(OUTLYING * 1.4826 * float(np.median(far)), np.log(3))
    for episode in np.flatnonzero(far > least).tolist():
        length, number = int(episodes.lengths[episode]), episodes.number(episode)
        message = f"episode {number} has {counted(length, 'frame')}; the median is {np.exp(median):.0f}"
        advice = "look at it: was it stopped early, or not ended, or are two of them joined?"
        yield episodes.finding(episodes.slice(episode).start, "warning", "length", message, advice)


def too_short(episodes: Episodes, window: WindowShape) -> Iterator[Finding]:
    """Find episodes in which a window must repeat their last frame."""
    executed = (window.n_action_steps - 1) * window.frame_stride + 1
    whole = (window.horizon - window.n_obs_steps) * window.frame_stride + 1
    starts = episodes.episode_ends - episodes.lengths
    for episode in np.flatnonzero(episodes.lengths < max(executed, whole)).tolist():
        length, number = int(episodes.lengths[episode]), episodes.number(episode)
        severity, advice = "note", "its last action fills up: lower horizon, or let it be"
        message = f"episode {number} has {counted(length, 'frame')}, fewer than the {whole} that one window predicts"
        if length < executed:
            severity, advice = "warning", "leave it out, or lower n_action_steps"
            message = (
                f"episode {number} has {counted(length, 'frame')}, fewer than the {executed} that one chunk executes"
            )
        yield Finding(severity, "window", message, advice, None, number, int(starts[episode]))


FATAL_CHECKS: tuple[Callable[[Episodes], Iterator[Finding]], ...] = (nothing_to_learn, unclear_who_acted, spikes)
"""What can be read and would still harm training; ``fit`` runs them, too."""
CHECKS = (*FATAL_CHECKS, nothing_to_see, resting, jumps, duplicates, dead_images, misaligned, outlying_lengths)


def _is_whole(episodes: Episodes) -> bool:
    """Tell whether all keys could be read; a key that is absent may else be one that is broken."""
    return not any(each.severity == "fatal" and each.check != "unwritten" for each in episodes.findings)


def in_kinds(findings: list[Finding]) -> list[tuple[Finding, str]]:
    """Return the first finding of each kind, and in words how many others of one kind, in one key, there are, where."""
    kinds: dict[tuple, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.check, finding.key), []).append(finding)
    told = []
    for first, *others in kinds.values():
        episodes = sorted({f.episode for f in others if f.episode is not None})
        some = f"{', '.join(map(str, episodes[:8]))}{', ...' if len(episodes) > 8 else ''}"
        where = f", episode{'s' * (len(episodes) > 1)} {some}" if episodes else ""
        told.append((first, f"and {len(others)} more of this kind{where}" if others else ""))
    return told


def _vectors(episodes: Episodes) -> list[tuple[str, np.ndarray]]:
    vectors = ((key, array) for key, array in episodes.arrays.items() if episodes.features[key].kind == "vector")
    return [(key, array) for key, array in vectors if key != INTERVENTION]


def _dimension(episodes: Episodes, key: str, dimension: int) -> str:
    names = episodes.features[key].names
    return f"{key}[{dimension}]" + (f" ({names[dimension]})" if names else "")


def _sample(values: np.ndarray) -> np.ndarray:
    return values[:: 1 + len(values) // SAMPLE]


def _rare(episodes: Episodes, where: np.ndarray) -> bool:
    return len(np.unique(where)) <= max(1, RARE * len(episodes))


def _moving(array: np.ndarray) -> np.ndarray:
    """Tell which dimensions of (N, D) change at all, (D,) bool."""
    return array.max(axis=0) - array.min(axis=0) >= SMALLEST_RANGE
