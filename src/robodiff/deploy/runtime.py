"""Run an exported policy on NumPy and an inference engine alone: no torch is imported here."""

from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.deploy.artefact import CONSTANTS_FILE, EXPORT_FILE, REMEDY, Evaluation, ExportFile, read_export
from robodiff.deploy.engines import compile_graph
from robodiff.errors import RobodiffError, UsageError, in_one_line
from robodiff.files import reading
from robodiff.machine import cores
from robodiff.policies.config import PolicyConfig, read_policy_config
from robodiff.policies.runtime import Arrays, Chunk, Known, Timing, blank_window
from robodiff.policies.sides import NUMBERS, Sides, spans_of

SMALL = 8_000_000
"""Weights up to which a second thread costs more than it gives."""
MOST_FRAMES = 4096
"""How many frames' embeddings are kept."""


class ExportedPolicy:
    """An exported policy: it acts like the original, up to rounding.

    Several threads may use it: calls wait for each other.

    Args:
        folder: of its files.
        described: contents of ``export.json``.
        config: of the policy.
        threads: number of threads; chosen by the size of the network when None.
    """

    policy_hash: str | None = None
    """Fingerprint of the folder that it was loaded from."""

    def __init__(self, folder: Path, described: ExportFile, config: PolicyConfig, threads: int | None = None) -> None:
        self.config, self.features, self.fps = config, described.features, described.fps
        self.observation_keys = [key for key in self.features if key != ACTION]
        self.described, self.threads = described, threads or (1 if described.weights <= SMALL else cores())
        self.run: dict[str, Callable[[Arrays], list[np.ndarray]]] = {
            name: compile_graph(folder / graph.file, graph.precision, self.threads)
            for name, graph in described.graphs.items()
        }
        constants = _constants(folder / CONSTANTS_FILE)
        self._timesteps, self._clip = constants.pop("timesteps"), constants.pop("clip")
        self._sides = None
        if config.canonicalize is not None:
            self._sides = Sides(spans_of(self.features), **{name: constants.pop(name) for name in NUMBERS})
        self._ranges = constants
        self._cameras = [key for key, feature in self.features.items() if feature.kind == "image"]
        self._frames: OrderedDict[bytes, list[np.ndarray]] = OrderedDict()
        self._lock = Lock()

    @property
    def timing(self) -> Timing:
        """When the policy observes and acts."""
        return self.config.timing(self.fps)

    @property
    def words(self) -> str:
        """The engine and precision, in words."""
        return f"{self.described.graphs['denoiser'].engine} {self.described.precision}"

    def check_options(self, sampler: str | None, steps: int | None, device: str) -> None:
        """Raise ``UsageError`` if another sampler, number of steps or device is asked for: the export fixed them."""
        if sampler is not None or steps is not None:
            own = f"{self.config.noise_scheduler_type}, {self.config.inference_steps} steps"
            raise UsageError(f"the policy was exported with {own}; export its run again with --sampler and --steps")
        if device != "cpu":
            raise UsageError(f"the policy was exported for a CPU; leave out --device {device}, or name its run")

    def acting(self, **asked: Any) -> "ExportedPolicy":
        """Return it as one that acts otherwise; see ``PolicyConfig.acting``. What was compiled is shared."""
        other = copy(self)
        other.config, other._frames = self.config.acting(**asked), OrderedDict()
        return other

    def noise_shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """Return the shape of the noise of chunks: (1 + sampler steps if it adds noise, B, n, W)."""
        rows = self.described.rows
        draws = 1 + len(rows) if any(row.d for row in rows) else 1
        return draws, batch_size, self.config.denoised_steps, self.described.trajectory_dim

    def predict_chunk(self, observation: Arrays, *, noise: np.ndarray, known: Known | None = None) -> Chunk:
        """Sample the actions of one window, as ``DiffusionPolicy.predict_chunk`` does.

        Args:
            observation: per key (B, To, ...), oldest first, in the units of the recording.
            noise: of ``noise_shape(B)``, or of a multiple of B: of each observation so many chunks follow one another.
            known: actions that are given (B, n, Da), in recorded units, and their weights from 0 (free) to 1.
        """
        with self._lock:
            observed = {key: observation[key][:, : self.config.n_obs_steps] for key in self.observation_keys}
            vectors = {key: _floats(value) for key, value in observed.items() if key not in self._cameras}
            turned: Any = None
            if self._sides is not None:
                vectors, turned = self._sides.seen(vectors, -1)
            reference = {key: vectors[key][:, -1] for key in self.described.reference_keys}
            encoded = vectors | (self._encoded(observed) if self._cameras else {})
            (condition,) = self.run["observe"]({key: encoded[key] for key in self.observation_keys})
            if (chunks := noise.shape[1] // len(condition)) > 1:
                condition = np.repeat(condition, chunks, 0)
                reference = {key: np.repeat(value, chunks, 0) for key, value in reference.items()}
            if self._sides is not None:
                turned = np.repeat(turned, chunks)
                known = None if known is None else self._sides.known(known, turned)
            told = None if known is None else self._told(known, reference)
            trajectory = self._denoise(condition, _floats(noise), told)
            (actions,) = self.run["decode"]({"trajectory": trajectory, **reference})
        if known is not None and self.described.discrete:  # a code for several values may be known only in part
            given, weights = (np.broadcast_to(each, actions.shape) for each in known)
            is_given = np.zeros(actions.shape, bool)
            is_given[..., self.described.discrete] = weights[..., self.described.discrete] >= 1
            actions = np.where(is_given, given, actions).astype(np.float32)
        if self._sides is not None:
            actions = self._sides.turned(ACTION, actions, turned)
        return Chunk(actions, self.config.first_step, self._ranges)

    def _denoise(self, condition: np.ndarray, noise: np.ndarray, known: Known | None) -> np.ndarray:
        """Turn noise into a trajectory (B, n, W): the loop of ``diffusion.denoise``, row by row."""
        x, inputs, denoiser = noise[0], dict[str, np.ndarray](), self.run["denoiser"]
        seen, steps, first = self.config.conditioning == "inpaint", self.config.n_obs_steps, self.described.action_dim
        if not seen:
            inputs["condition"] = condition
        x0_previous = np.zeros_like(x)
        for index, row in enumerate(self.described.rows):
            if seen:
                x = x.copy()
                x[:, :steps, first:] = condition
            if self.config.self_conditioning:
                inputs["estimate"] = x0_previous
            (prediction,) = denoiser({**inputs, "x": x, "timestep": self._timesteps[index : index + 1]})
            x0 = row.x0_from_x * x + row.x0_from_prediction * prediction
            eps = row.eps_from_x * x + row.eps_from_prediction * prediction
            x0 = x0.clip(-self._clip, self._clip)
            if known is not None:
                values, weights = known
                x0 = x0 + weights * (values - x0)
                eps = eps + weights * (_eps_of(row, x, values) - eps)
            x, x0_previous = row.a * x + row.b * x0 + row.c * eps + row.e * x0_previous, x0
            if row.d:
                x = x + row.d * noise[1 + index]
        return x

    def _told(self, known: Known, reference: Arrays) -> Known:
        """Convert known actions to those of a trajectory: values and weights (B, n, W)."""
        actions, weights = (_floats(each) for each in known)
        values, weights = self.run["known"]({"actions": actions, "weights": weights, **reference})
        return values, weights

    def _encoded(self, observed: Arrays) -> dict[str, np.ndarray]:
        """Return the embedding of each camera, (B, To, E). Frames are encoded one by one, each of them once."""
        cameras = [observed[camera] for camera in self._cameras]
        size, steps = cameras[0].shape[:2]
        rows = [
            [self._embedding([each[row, step] for each in cameras]) for step in range(steps)] for row in range(size)
        ]
        return {
            key: np.stack([[step[place] for step in row] for row in rows]) for place, key in enumerate(self._cameras)
        }

    def _embedding(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        """Return the embedding (E,) of each camera's frame, from the cache if the frames were seen before."""
        digest = sha256()
        for frame in frames:
            digest.update(frame.tobytes())
        key = digest.digest()
        if key not in self._frames:
            inputs = {camera: frame[None] for camera, frame in zip(self._cameras, frames, strict=True)}
            self._frames[key] = [embedding[0] for embedding in self.run["encoder"](inputs)]
        self._frames.move_to_end(key)
        if len(self._frames) > MOST_FRAMES:
            self._frames.popitem(last=False)
        return self._frames[key]


def load_exported(folder: str | Path, threads: int | None = None) -> ExportedPolicy:
    """Load an exported policy, ready to act: compiled, and run once.

    Args:
        folder: that ``robodiff export`` wrote.
        threads: number of threads; None for one with a small network, and all cores with a large one.

    Raises:
        RobodiffError: the folder is broken, of another version, or its engine is not installed.
    """
    folder = Path(folder)
    described, policy_hash = read_export(folder)
    try:
        config = read_policy_config(described.config, described.origin)
    except UsageError as error:
        raise RobodiffError(f"{folder / EXPORT_FILE}: does not describe a policy: {error}") from None
    try:
        policy = ExportedPolicy(folder, described, config, threads)
        _warm_up(policy)
    except RobodiffError:
        raise
    except Exception as error:  # from NumPy, or from an engine
        raise RobodiffError(f"{folder}: its files do not go together: {in_one_line(error)}; {REMEDY}") from None
    policy.policy_hash = policy_hash
    return policy


def _warm_up(policy: ExportedPolicy) -> None:
    """Run a policy once, on zeros."""
    nothing = blank_window(policy.features, policy.timing)
    chunk = policy.predict_chunk(nothing, noise=np.zeros(policy.noise_shape(1), np.float32))
    if chunk.actions.shape[2:] != (expected := policy.features[ACTION].shape):
        raise ValueError(f"actions of shape {chunk.actions.shape[2:]}, and a feature of {expected}")


def _eps_of(row: Evaluation, x: np.ndarray, x0: np.ndarray) -> np.ndarray:
    """Return the noise in x for an x0 that is not the prediction's, as ``diffusion.objective.Conversion.eps_of``."""
    share = row.eps_from_prediction / row.x0_from_prediction  # -alpha / sigma
    return (row.eps_from_x - share * row.x0_from_x) * x + share * x0


def _constants(path: Path) -> dict[str, np.ndarray]:
    with reading(path, "the constants of an exported policy"), np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _floats(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value, np.float32)
