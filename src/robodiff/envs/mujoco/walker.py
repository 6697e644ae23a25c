"""The humanoid as an environment: it is to walk at a commanded speed, and may be pushed; and its expert."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import gymnasium
import numpy as np

from robodiff.data.episodes import ACTION, Feature, joined_unit
from robodiff.data.symmetry import Symmetry
from robodiff.documents import Between, Document
from robodiff.envs.mujoco.biped import FPS, JOINTS, Array, Biped
from robodiff.envs.mujoco.library import mujoco
from robodiff.envs.mujoco.mirror import mirror_of
from robodiff.envs.mujoco.scene import PICTURE, drawn_size
from robodiff.envs.mujoco.walking import Walk
from robodiff.envs.spec import EnvSpec, Scene, box, select_keys
from robodiff.errors import UsageError

STATE, CAMERA = "observation.state", "observation.images.side"
IMAGE_SIZE = 96
MAX_STEPS = 500
SPEED_ERROR = 0.15
"""How far the mean speed of a successful episode, standing start included, may be off the command, m/s."""
PUSH_STEPS, PUSH_EVERY, TAUGHT_PUSH_EVERY = 5, 75, 100
"""Steps of a push, and from push to push in evaluations and in demonstrations: 0.1, 1.5 and 2 s."""
FIRST_PUSH = 25
"""No push comes before this step: 0.5 s."""
GENTLEST = 0.3
"""The smallest push, as a share of the largest."""
NOISE_HELD = 4
"""Steps for which a disturbance of the joints is held, 0.08 s: the joints would smooth away one that changes faster."""
FALL = "fall"
XYZ = ("x", "y", "z")


def _vector(*parts: tuple[tuple[str, ...], str | None]) -> Feature:
    """Return the feature of a vector whose parts have names and a unit."""
    names = tuple(name for part, _ in parts for name in part)
    return Feature("vector", (len(names),), "float32", names, joined_unit([(unit, len(part)) for part, unit in parts]))


def _of(what: str, names: tuple[str, ...] = XYZ) -> tuple[str, ...]:
    return tuple(f"{what}.{name}" for name in names)


CONTACTS = ("left_contact", "right_contact")
OBSERVATIONS = {
    STATE: _vector(
        (JOINTS, "rad"),
        (tuple(f"{joint}.velocity" for joint in JOINTS), "rad/s"),
        ((*_of("up"), *_of("heading", XYZ[:2])), None),
        (_of("velocity"), "m/s"),
        (_of("turning"), "rad/s"),
        (("height", *_of("left_ankle"), *_of("right_ankle"), *_of("com")), "m"),
        (_of("com_velocity"), "m/s"),
        (("left_touch", "right_touch", *CONTACTS), None),
        (("command",), "m/s"),
    ),
    CAMERA: Feature("image", (3, IMAGE_SIZE, IMAGE_SIZE), "uint8"),
}
FEATURES = {**OBSERVATIONS, ACTION: _vector((JOINTS, "rad"), (CONTACTS, None))}
MIRROR = Symmetry("mirror", {key: mirror_of(FEATURES[key]) for key in (STATE, ACTION)})
"""Left and right exchanged; what the camera at the side would see is not known."""


@dataclass(frozen=True, kw_only=True)
class WalkerOptions(Document):
    """Options of the environment."""

    push_newton: Annotated[float, Between(0, 5000)] = 0.0
    """The largest push at the torso, N: one of 0.1 s every 1.5 s, each of 30 to 100 % of this, in any horizontal
    direction."""
    command_low: Annotated[float, Between(0, 0.8)] = 0.2
    """The slowest commanded speed, m/s."""
    command_high: Annotated[float, Between(0, 0.8)] = 0.8
    """The fastest commanded speed, m/s."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.command_low > self.command_high:
            ends = f"{self.command_low:g} and {self.command_high:g}"
            raise UsageError(f"biped: expected command_low of at most command_high; found {ends}")


@dataclass(frozen=True, kw_only=True)
class WalkerExpertOptions(Document):
    """Options of the scripted expert."""

    noise: Annotated[float, Between(0, 1)] = 0.06
    """The largest disturbance of the executed joint targets, rad; each demonstration draws its own scale. What is
    recorded are the undisturbed targets, so that demonstrations show how to recover."""
    flips: Annotated[float, Between(0, 1)] = 0.01
    """The probability that an executed contact flag is the wrong one."""
    push: Annotated[float, Between(0, 5000)] = 130.0
    """The largest push at the torso, N, every 2 s, beside those of the environment."""


def draw_pushes(rng: np.random.Generator, newton: float, every: int) -> Array:
    """Return the forces of an episode by step, (MAX_STEPS, 2) N: pushes of up to ``newton`` every ``every`` steps."""
    first, count = FIRST_PUSH + int(rng.integers(every)), MAX_STEPS // every + 1
    angles, sizes = rng.uniform(0, 2 * np.pi, count), newton * rng.uniform(GENTLEST, 1, count)
    forces = np.zeros((first + count * every, 2))
    for step in range(PUSH_STEPS):
        forces[first + step :: every] = np.stack([sizes * np.cos(angles), sizes * np.sin(angles)], axis=1)
    return forces[:MAX_STEPS]


class WalkerEnv(gymnasium.Env[Any, Any]):
    """A walk of ten seconds along the x axis, with the observations that were asked for, and no others computed.

    Action (23,): joint targets in rad, clipped to the joints' ranges, and the contact flags of the left and the right
    leg, 1 where they are above 0.5. A fall ends the episode. At its end the reward is 1 for success, else 0. ``info``:
    ``is_success``, and in ``extra`` what ``_metrics`` says. After ``reset(seed=s)`` all depends on ``s`` and the
    actions.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, keys: Collection[str], options: WalkerOptions) -> None:
        self._keys, self._options, self.biped = select_keys("biped", keys, OBSERVATIONS), options, Biped()
        self.observation_space = gymnasium.spaces.Dict({key: box(OBSERVATIONS[key]) for key in self._keys})
        low, high = np.concatenate([self.biped.model.jnt_range[1:], [(0, 1), (0, 1)]]).astype(np.float32).T
        self.action_space = gymnasium.spaces.Box(low, high)
        self._low, self._high = low[:21], high[:21]
        self.render_mode = "rgb_array"
        self.command = 0.0
        """Commanded speed, m/s."""
        self.forces = np.zeros((MAX_STEPS, 2))
        """What pushes the torso at each step, N."""
        self._steps, self._agreements, self._start = 0, 0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Stand, with a new command: by ``seed`` alone if it is given, else as the generator was left."""
        super().reset(seed=seed, options=options)
        self.command = self.np_random.uniform(self._options.command_low, self._options.command_high)
        self.biped.reset(self.np_random)
        self.forces = draw_pushes(self.np_random, self._options.push_newton, PUSH_EVERY)
        self._steps, self._agreements, self._start = 0, 0, float(self.biped.com[0])
        return self.observe(), {"is_success": False}

    def step(self, action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Act for one control step, 20 ms."""
        values = np.asarray(action, float)
        if values.shape != (23,) or not np.isfinite(values).all():
            raise UsageError(f"an action of biped is 23 finite numbers; found {action!r}")
        flags = (values[21:] > 0.5).astype(float)
        push = self.forces[min(self._steps, MAX_STEPS - 1)]
        self.biped.step(values[:21].clip(self._low, self._high), flags, push)
        self._steps += 1
        self._agreements += int((flags == self.biped.touch).all())
        fell, ended, metrics = self.biped.has_fallen, self._steps >= MAX_STEPS, self._metrics()
        success = ended and not fell and metrics["speed_error"] <= SPEED_ERROR
        return self.observe(), float(success), fell, ended, {"is_success": success, "extra": metrics}

    def _metrics(self) -> dict[str, float]:
        """Return the distance, m, the time upright, s, the error of the mean speed, m/s, and the share of steps after
        which both flags were what the soles measured."""
        seconds, distance = self._steps / FPS, float(self.biped.com[0]) - self._start
        return {
            "distance": distance,
            "seconds_upright": seconds,
            "speed_error": abs(distance / seconds - self.command),
            "contact_agreement": self._agreements / self._steps,
        }

    def observe(self) -> dict[str, Array]:
        """Return what is seen now."""
        return {key: self._state() if key == STATE else self._image() for key in self._keys}

    def _state(self) -> Array:
        robot = self.biped
        parts = [robot.joints, robot.joint_velocities, robot.rotation[2], robot.rotation[:2, 0], robot.velocity]
        parts += [robot.turning, robot.root[2:], *(place - robot.root for place in (*robot.ankles, robot.com))]
        parts += [robot.com_velocity, robot.touch, robot.flags, (self.command,)]
        return np.concatenate(parts, dtype=np.float32, casting="same_kind")

    def _image(self) -> Array:
        return np.ascontiguousarray(self.biped.draw((IMAGE_SIZE, IMAGE_SIZE)).transpose(2, 0, 1))  # HWC -> CHW

    def render(self) -> Array:
        """Draw the robot for people, (H, W, 3) uint8; the camera follows."""
        return self.biped.draw(PICTURE, shadows=True)

    def snapshot(self) -> tuple[Array, Array, Array]:
        """Return all that the episode remembers."""
        rest = np.array([self.command, self._steps, self._agreements, self._start])
        return self.biped.state, self.forces.copy(), rest

    def restore(self, snapshot: tuple[Array, Array, Array]) -> None:
        """Go on from a snapshot."""
        state, forces, (self.command, steps, agreements, self._start) = snapshot
        self.biped.set_state(state)
        self.forces, self._steps, self._agreements = forces.copy(), int(steps), int(agreements)


class WalkerExpert:
    """Walks while disturbed, and records the undisturbed actions (DART; Laskey et al., 2017, arXiv:1703.09327)."""

    def __init__(self, make: Callable[[Collection[str]], WalkerEnv], options: WalkerExpertOptions) -> None:
        self._make, self._options = make, options

    def demonstrate(self, seed: int, keys: Collection[str]) -> dict[str, Array] | str | None:
        """Return the observations of ``keys`` and ``action``, each (L, ...); ``fall`` where it fell; None where it
        walked too fast or too slowly."""
        options, env, rng = self._options, self._make(keys), np.random.default_rng([seed, 1])
        seen, info = env.reset(seed=seed)
        env.forces += draw_pushes(rng, options.push, TAUGHT_PUSH_EVERY)
        walk = Walk(env.biped, env.command, stance=int(rng.integers(2)))
        sizes = rng.uniform(0, options.noise) * rng.normal(size=(MAX_STEPS // NOISE_HELD, 21))
        flipped = rng.random((MAX_STEPS, 2)) < options.flips
        frames, actions = [], []
        for step in range(MAX_STEPS):
            frames.append(seen)
            actions.append(walk.act().astype(np.float32))
            executed = actions[-1].astype(float)
            executed[:21] += sizes[step // NOISE_HELD]
            executed[21:] = np.abs(executed[21:] - flipped[step])
            seen, _, fell, _, info = env.step(executed)
            if fell:
                return FALL
        if not info["is_success"]:
            return None
        recorded = {key: np.stack([frame[key] for frame in frames]) for key in seen}
        return recorded | {ACTION: np.stack(actions)}


@lru_cache
def _drawn() -> Biped:
    """Return a robot that poses for pictures of recorded observations."""
    return Biped()


def draw_scene(observation: Mapping[str, Array]) -> Array | None:
    """Draw the robot in a recorded state, (H, W, 3) uint8; None where there is none."""
    state = observation.get(STATE)
    if state is None or state.shape != OBSERVATIONS[STATE].shape:
        return None
    ux, uy, uz, hx, hy = state[42:47].tolist()  # the last row and the beginning of the first column of its rotation
    square = max(hx * hx + hy * hy, 1e-6)
    left = (-ux * uy * hx - uz * hy) / square, (uz * hx - ux * uy * hy) / square, uy  # perpendicular to the front
    rotation = np.stack([(hx, hy, ux), left, np.cross((hx, hy, ux), left)], axis=1)
    _drawn().pose(state[:21], rotation, state[53])
    return _drawn().draw(PICTURE)


def walker_spec(options: WalkerOptions | None = None) -> EnvSpec:
    """Return the environment with these options."""
    options = options or WalkerOptions()

    def make(keys: Collection[str]) -> WalkerEnv:
        return WalkerEnv(keys, options)

    return EnvSpec(
        name="biped",
        make=make,
        features=FEATURES,
        fps=FPS,
        success=f"It walks for {MAX_STEPS / FPS:g} s at the commanded speed, to {SPEED_ERROR:g} m/s, without a fall.",
        success_reward=1.0,
        version=lambda: f"MuJoCo {mujoco.__version__}",
        max_steps=MAX_STEPS,
        options=WalkerOptions,
        configure=walker_spec,
        expert=lambda **options: WalkerExpert(make, WalkerExpertOptions(**options)),
        expert_options=WalkerExpertOptions,
        failures=(FALL,),
        snapshot=WalkerEnv.snapshot,
        restore=WalkerEnv.restore,
        glance=lambda env, longest: env.biped.draw(drawn_size(longest)),
        symmetries=(MIRROR,),
        scene=Scene(draw_scene),
    )


SPEC = walker_spec()
