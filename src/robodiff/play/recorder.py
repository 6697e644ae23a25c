"""Episodes in which a person acted, kept as ``robodiff collect`` keeps those of an expert."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robodiff.data.episodes import ACTION, INTERVENTION, Feature
from robodiff.data.formats.growing import Images, format_to_grow, growing, images_to_grow
from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.envs.collect import recorded_features
from robodiff.envs.pool import Observation
from robodiff.envs.spec import EnvSpec

BY = "a person"
"""Who demonstrated, in the recipe of a recording."""
DISTURBED = "disturbed"
"""Column of the table: 1 of an episode in which something was moved by hand, which its seed alone does not give."""


@dataclass
class Frames:
    """One episode while it goes on."""

    observations: list[Observation] = field(default_factory=list)
    """Before each action."""
    actions: list[np.ndarray] = field(default_factory=list)
    by_person: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.actions)

    def add(self, observation: Observation, action: np.ndarray, by_person: bool) -> None:
        """Take in one more step."""
        self.observations.append(observation)
        self.actions.append(np.asarray(action, np.float32))
        self.by_person.append(by_person)


class Recorder:
    """Append episodes to a recording.

    Args:
        writer: of the recording.
        spec: the environment.
        features: what is recorded.
    """

    def __init__(self, writer: ZarrWriter, spec: EnvSpec, features: Mapping[str, Feature]) -> None:
        self._writer, self._spec, self._features = writer, spec, features

    @property
    def kept(self) -> int:
        """Episodes in the recording."""
        return self._writer.episodes

    @property
    def marks_who_acted(self) -> bool:
        """Whether a policy acts where no person does."""
        return INTERVENTION in self._features

    def next_seed(self, first: int) -> int:
        """Return the seed after the last one, or ``first`` of a recording that begins."""
        return int(self._writer.table()["seed"][-1]) + 1 if self.kept else first

    def keep(self, frames: Frames, seed: int, success: bool, disturbed: bool) -> None:
        """Append an episode; it is durable when this returns.

        Raises:
            RobodiffError: it is not as those before.
        """
        keys = [key for key in self._features if key in self._spec.features and key != ACTION]
        arrays = {key: np.stack([each[key] for each in frames.observations]) for key in keys}
        action, agents = np.stack(frames.actions), self._spec.agents
        arrays |= {f"agents.{agent}.{ACTION}": action[:, share] for agent, share in agents.items()}
        arrays |= {} if agents else {ACTION: action}
        if self.marks_who_acted:
            arrays[INTERVENTION] = np.array(frames.by_person, np.float32)[:, None]
        self._writer.append(arrays, seed=seed, success=success, **{DISTURBED: int(disturbed)})


@contextmanager
def recording(
    out: Path, form: str | None, spec: EnvSpec, images: Images, policy: str | None
) -> Iterator[tuple[Recorder, list[str]]]:
    """Open a recording, a new one or one that goes on; yield what appends to it, and the keys that it observes.

    Args:
        out: where it goes, as ``robodiff collect`` has it.
        form: the format, where the name does not say it.
        spec: the environment.
        images: whether images are recorded, or of which cameras; see ``collect``.
        policy: hash of the policy that a person takes over from; None where a person demonstrates.

    Raises:
        UsageError: the environment has no such cameras, or ``out`` is taken or of no format.
        RobodiffError: something else is there, or another process writes to it.
    """
    into = format_to_grow(out, form)
    images = images_to_grow(into, images, lambda images: recorded_features(spec, images))
    features = recorded_features(spec, images)
    keys = [key for key in features if key in spec.features and key != ACTION]
    recipe = {"env": spec.name, "images": images, "by": BY}
    if policy is not None:
        features |= {INTERVENTION: Feature("vector", (1,), "float32")}
        recipe |= {"policy": policy}
    with growing(out, into, spec.fps, recipe, features) as writer:
        yield Recorder(writer, spec, features), keys
