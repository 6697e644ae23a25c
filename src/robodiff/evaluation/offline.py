"""Measure a policy where there is no simulator: how far its actions are from those that were recorded.

At every window of some episodes the policy makes a chunk of what was observed there, and its actions from now on are
compared with the recorded ones, number by number and rotation by rotation. Two guesses that need no policy are measured
on the same steps, for an error means little without them:

- hold: the action of one step before now, again and again (at an episode's first frame its first action);
- mean: the mean action of the episodes that the policy was trained on.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from robodiff.data.episodes import ACTION, SMALLEST_RANGE, Episodes, with_past_action
from robodiff.data.provenance import ACCEPT, digest, divide, numbers_of, read_trained_on
from robodiff.data.recordings import DataConfig
from robodiff.data.windows import Windows
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.evaluation.chunks import (
    Policy,
    check_features,
    check_finite,
    chunk_latency,
    open_policy,
    sample_chunks,
    window_shape,
)
from robodiff.evaluation.conditions import HELD_OUT, NEVER_SEEN, OTHERS, SEEN, TRAINED_ON, EvaluatedOffline
from robodiff.evaluation.config import OfflineConfig
from robodiff.evaluation.results import (
    ActionErrors,
    DimensionErrors,
    OfflineComparison,
    OfflineResult,
    StepErrors,
    read_result,
    write_result,
)
from robodiff.evaluation.runs import run_of
from robodiff.evaluation.window_errors import WindowErrors, write_windows
from robodiff.files import locked
from robodiff.policies.actions import make_representation
from robodiff.policies.runner import PolicyRunner
from robodiff.progress import bar

OWN = "its own"
"""The recording that a policy was trained on."""
GOLDEN = (5**0.5 - 1) / 2
SPREAD_WINDOWS = 256
"""Windows at which a second chunk is sampled."""


@dataclass(frozen=True)
class Prepared:
    """A policy and the windows that it is to be measured at, checked to fit each other."""

    policy: Policy
    episodes: Episodes
    windows: Windows
    """Of the episodes that are measured."""
    picks: np.ndarray
    """(W,) which of them are."""
    mean: np.ndarray
    """(Da,) the mean action."""
    evaluated: EvaluatedOffline


def evaluate_offline(
    policy_path: str | Path,
    source: DataConfig,
    out: Path,
    config: OfflineConfig,
    own: bool,
    console: Console | None = None,
    accept_changed_data: bool = False,
) -> OfflineResult:
    """Compare a policy's actions with recorded ones; arguments and errors are those of ``prepare`` and ``run``."""
    which = OWN if own else OTHERS
    return run(prepare(policy_path, source, config, which, accept_changed_data), out, console)


def prepare(
    policy_path: str | Path, source: DataConfig, config: OfflineConfig, which: str, accept_changed_data: bool = False
) -> Prepared:
    """Open a policy and a recording, and choose the windows.

    Args:
        policy_path: a policy, a run, or a repository of the hub.
        source: the recording.
        config: at how many windows, and how the policy samples.
        which: what the recording is to the policy. ``OWN``: what it was trained on; the episodes that were held out are
            measured, or all of them where none were. Else all of its episodes are, and the result says what they are.
        accept_changed_data: measure although ``source`` has changed since training, where it was never trained on.

    Raises:
        UsageError: a recording whose features, units or rate are not the policy's.
        RobodiffError: a recording that cannot be read or lacks a key.
    """
    policy, sampled = open_policy(policy_path, config)
    try:
        episodes = source.read(policy.observation_keys)
    except RobodiffError as error:
        if which != OWN:
            raise
        advice = "if it was moved, give its new path in the run's config.yaml; --data PATH measures on another one"
        raise RobodiffError(f"{error}\n{advice}") from None
    trained_on, chosen, which = _choose(policy_path, source, episodes, which, accept_changed_data)
    shape = window_shape(policy, episodes)
    episodes = with_past_action(episodes, policy.observation_keys, shape.frame_stride)
    check_features(policy, episodes.features, episodes.source)
    every = Windows(episodes.episode_ends, shape, chosen, episodes.expert)
    if not len(every):
        raise UsageError(f"{episodes.source}: an expert acts in none of the episodes that are to be measured")
    count = min(config.windows, len(every))
    evaluated = EvaluatedOffline(
        **vars(sampled),
        data=episodes.source,
        episodes=[episodes.number(place) for place in chosen],
        which=which,
        windows=count,
        of_windows=len(every),
        seed=config.seed,
        rate=1 / policy.timing.spacing,
        actions=_hash(episodes, chosen),
    )
    frames = Windows(episodes.episode_ends, shape, trained_on).episode_frames
    mean = mean_action(policy, episodes, frames if episodes.expert is None else frames[episodes.expert[frames]])
    return Prepared(policy, episodes, every, _spread(every.now, count), mean, evaluated)


def run(prepared: Prepared, out: Path, console: Console | None = None, again: bool = True) -> OfflineResult:
    """Measure, and write ``offline.json`` and the errors of each window to ``out``.

    Everything in the files but ``latency_ms`` is the same at every call with the same arguments. A comparison that an
    earlier evaluation left in ``out`` is removed.

    Args:
        prepared: what, at which windows.
        out: folder to write to.
        console: where progress is shown.
        again: False takes over what an earlier evaluation of just this left in ``out``.

    Returns:
        What was written to ``offline.json``.

    Raises:
        UsageError: ``out`` holds what was measured on another recording.
        RobodiffError: actions that are not finite.
    """
    policy, episodes, every, evaluated = prepared.policy, prepared.episodes, prepared.windows, prepared.evaluated
    if (out / OfflineResult.file).is_file():  # another recording may have the same file name
        earlier = read_result(out, OfflineResult)
        if earlier.evaluated.data != evaluated.data:
            place = f"{out}: holds what was measured on {earlier.evaluated.data}"
            raise UsageError(f"{place}; give --out FOLDER for {evaluated.data}")
        if earlier.evaluated == evaluated and (out / WindowErrors.file).is_file() and not again:
            return earlier
    with locked(out):
        shown, keep = console or Console(quiet=True), lambda windows: write_windows(out, windows)
        errors = measure(policy, episodes, every, prepared.picks, prepared.mean, evaluated.seed, shown, keep)
        first = {key: episodes.arrays[key][every.now[0]] for key in policy.observation_keys}
        result = OfflineResult(
            **vars(errors), evaluated=evaluated, latency_ms=chunk_latency(PolicyRunner(policy), first)
        )
        (out / OfflineComparison.file).unlink(missing_ok=True)
        write_result(out, result)
    return result


def _choose(
    policy_path: str | Path, source: DataConfig, episodes: Episodes, which: str, accepted: bool
) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the places of the episodes for the mean action and of those to measure, and what they are to the policy.

    Raises:
        RobodiffError: the run's recording has changed since, and that was not accepted.
    """
    run = run_of(Path(policy_path))
    recorded = read_trained_on(run) if run is not None else None
    if which != OWN:
        chosen = source.chosen(episodes)
        if recorded is None:
            return chosen, chosen, which
        digests = digest(episodes, chosen.tolist()).values()
        seen = sum(numbers_of(each) in recorded.numbers_trained_on for each in digests)
        return chosen, chosen, f"{seen:,} {SEEN}" if seen else OTHERS
    if recorded is None:
        notice(
            f"{run or policy_path}: does not say which episodes it was trained on, as later versions do; taken to be "
            "those that its configuration says"
        )
    division = divide(source, episodes, recorded)
    if not accepted:
        advice = f"give it back as it was, or measure on what it was never trained on: {ACCEPT}"
        division.check(episodes.source, advice)
    used = np.union1d(division.seen, division.unseen)
    if not len(division.unseen):
        return used, used, TRAINED_ON
    mean_of = division.seen if len(division.seen) else used
    return mean_of, division.unseen, NEVER_SEEN if division.changes else HELD_OUT


def measure(
    policy: Policy,
    episodes: Episodes,
    windows: Windows,
    picks: np.ndarray,
    mean: np.ndarray,
    seed: int,
    console: Console,
    keep: Callable[[WindowErrors], None] = lambda windows: None,
) -> ActionErrors:
    """Return the errors of the policy and of both guesses, by dimension and by step.

    Steps that are padded, or at which no expert acted, are left out.

    Args:
        policy: in evaluation mode.
        episodes: the recording.
        windows: of the episodes to measure.
        picks: (W,) which of the windows to measure.
        mean: (Da,) the mean action.
        seed: of the noise.
        console: where progress is shown.
        keep: called with the errors of each window.
    """
    twice = np.arange(0, len(picks), -(-len(picks) // SPREAD_WINDOWS))  # (S,) places in picks
    asked = np.array([(window, 0) for window in picks] + [(window, 1) for window in picks[twice]])
    with bar(console, "chunks", len(asked), "measuring how long a chunk takes") as advance:
        chunks = sample_chunks(policy, episodes, windows, asked, seed, advance=advance)
    check_finite(episodes, windows.now[asked[:, 0]], chunks)
    sampled, again = chunks[: len(picks)], chunks[len(picks) :]  # (W, n, Da), (S, n, Da)

    frames, is_pad = windows.frames(picks)
    from_now = slice(policy.config.n_obs_steps - 1, policy.config.first_step + policy.config.denoised_steps)
    frames, valid = frames[:, from_now], ~is_pad[:, from_now]  # (W, n) each
    if windows.expert is not None:
        valid &= windows.expert[frames]
    executed = valid & (np.arange(valid.shape[1]) < policy.config.n_action_steps)
    actions = episodes.arrays[ACTION]
    guesses = {"policy": sampled, "hold": actions[_before(episodes, windows, picks)][:, None], "mean": mean}
    errors = {name: _distance(policy, guess, actions[frames]) for name, guess in guesses.items()}  # (W, n, E) each

    kept, now = slice(policy.config.n_action_steps), windows.now[picks]
    places = {name: np.where(valid[:, kept, None], errors[name][:, kept], np.nan) for name in ("policy", "hold")}
    numbers = np.array([episodes.number(place) for place in episodes.at(now)])
    keep(WindowErrors(now, numbers, **{name: each.astype(np.float32) for name, each in places.items()}))

    averages = _averages({name: error[executed] for name, error in errors.items()})
    averages["spread"] = _distance(policy, sampled[twice], again)[executed[twice]].mean(0)
    moves = averages["mean"] > SMALLEST_RANGE / 2  # one whose range is too small to be learnt deviates by less
    dimensions = []
    for place, (name, unit) in enumerate(_dimensions(policy)):
        numbers = {key: float(values[place]) for key, values in averages.items()}
        dimensions.append(DimensionErrors(name=name, unit=unit, moves=bool(moves[place]), **numbers))
    steps = []
    for step, rows in enumerate(valid.T):
        if count := int(rows.sum()):
            means = _averages({name: error[rows, step] for name, error in errors.items()})
            lists = {name: values.tolist() for name, values in means.items()}
            is_executed = step < policy.config.n_action_steps
            steps.append(StepErrors(step=step, executed=is_executed, windows=count, **lists))
    return relative(dimensions, steps)


def mean_action(policy: Policy, episodes: Episodes, frames: np.ndarray) -> np.ndarray:
    """Return the mean (Da,) of the recorded actions at frames (F,); of rotations what Gram and Schmidt make of it."""
    representation = make_representation(policy.config, policy.features)
    return representation.mean(torch.from_numpy(episodes.arrays[ACTION][frames]).double()).numpy()


def _averages(errors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return means (E,) over the rows of errors (K, E): absolute ones and, of the policy, the root mean square."""
    policy, hold, mean = (errors[name] for name in ("policy", "hold", "mean"))
    return {"mae": policy.mean(0), "rmse": np.sqrt((policy**2).mean(0)), "hold": hold.mean(0), "mean": mean.mean(0)}


def relative(dimensions: list[DimensionErrors], steps: list[StepErrors]) -> ActionErrors:
    """Add one number for all dimensions that move, and which of them is the worst.

    Each counts in units of the mean action's error in it, so that metres and radians can be added up; the worst is the
    one with the largest share of holding's error. What cannot be said is None: everything if nothing moves,
    ``relative_to_hold`` if what was recorded rests.
    """
    moving = [place for place, each in enumerate(dimensions) if each.moves]
    errors = [dimensions[place].mae / dimensions[place].mean for place in moving]
    holding = [dimensions[place].hold / dimensions[place].mean for place in moving]
    return ActionErrors(
        relative_to_hold=sum(errors) / sum(holding) if any(holding) else None,
        relative_to_mean=sum(errors) / len(moving) if moving else None,
        worst_dimension=max(moving, key=lambda place: dimensions[place].mae / dimensions[place].scale, default=None),
        dimensions=dimensions,
        steps=steps,
    )


def _spread(frames: np.ndarray, count: int) -> np.ndarray:
    """Return the places of evenly spread frames: those whose multiples of the golden ratio have the smallest fractions.

    Which frames are taken depends little on which there are, so that policies with windows of other shapes share them.
    """
    return np.sort(np.argsort(frames * GOLDEN % 1, kind="stable")[:count])


def _hash(episodes: Episodes, chosen: np.ndarray) -> str:
    """Return the hash of the actions that were recorded in some episodes, and of where these lie."""
    digest = hashlib.sha256(np.array([episodes.fps, *episodes.episode_ends[chosen]], np.float64).tobytes())
    for place in chosen:
        digest.update(np.ascontiguousarray(episodes.arrays[ACTION][episodes.slice(place)]).tobytes())
    return digest.hexdigest()[:16]


def _distance(policy: Policy, actions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distances between actions (..., Da) in recorded units, (..., E) float64."""
    both = (torch.from_numpy(each).double() for each in (actions, others))
    return make_representation(policy.config, policy.features).distance(*both).numpy()


def _dimensions(policy: Policy) -> list[tuple[str, str | None]]:
    """Return the name and the unit of each error: of a dimension of the action, or of a rotation."""
    feature = policy.features[ACTION]
    names = feature.names or tuple(f"action {d}" for d in range(feature.shape[0]))
    return [
        (names[dims[0]], feature.units[dims[0]] or None)
        if len(dims) == 1
        else (f"rotation {dims[0]}:{dims[-1] + 1}", "rad")
        for dims in make_representation(policy.config, policy.features).distances
    ]


def _before(episodes: Episodes, windows: Windows, picks: np.ndarray) -> np.ndarray:
    """Return the frame one step before now, (W,); at the start of an episode its first."""
    now, starts = windows.now[picks], episodes.episode_ends - episodes.lengths
    return np.maximum(now - windows.shape.frame_stride, starts[episodes.at(now)])
