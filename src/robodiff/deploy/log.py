"""Log what a robot did as a recording, which can be inspected and trained on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from robodiff.data.episodes import ACTION, PAST_ACTION
from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.deploy.episode import Episode
from robodiff.files import locked, naming
from robodiff.policies.runtime import Runtime, Timing


class Log:
    """Write each episode of the loop to a zarr folder when it ends; its table holds their figures.

    Args:
        folder: of the recording; episodes are appended if it exists.
        policy: that acts.
    """

    def __init__(self, folder: Path, policy: Runtime) -> None:
        timing: Timing = policy.timing  # pyright: ignore[reportAttributeAccessIssue]
        features = {key: feature for key, feature in policy.features.items() if key != PAST_ACTION}
        self._writer = ZarrWriter(
            folder, round(1 / timing.spacing, 6), recipe={"by": "robodiff run"}, features=features
        )
        types = {"image": np.uint8, "vector": np.float32}
        self._writer.check_alike({k: np.empty((0, *each.shape), types[each.kind]) for k, each in features.items()})
        self._frames: dict[str, list[np.ndarray]] = {key: [] for key in features}

    def add(self, observation: dict[str, np.ndarray], action: np.ndarray) -> None:
        """Add the observation of a step, and the action that was executed then."""
        for key, frames in self._frames.items():
            frames.append(action if key == ACTION else observation[key])

    def end(self, episode: Episode, seed: int, **more: int) -> None:
        """Write the steps added since the last episode, if any, as an episode; the table holds ``more`` of it, too."""
        arrays = {key: np.stack(frames) for key, frames in self._frames.items() if frames}
        for frames in self._frames.values():
            frames.clear()
        if arrays:
            outcome = {} if episode.success is None else {"success": bool(episode.success)}
            self._writer.append(arrays, seed=seed, failed=episode.failed, **outcome, **episode.summary, **more)

    def close(self) -> None:
        """Complete the recording."""
        self._writer.close()


@contextmanager
def logging_to(folder: Path, policy: Runtime) -> Iterator[Log]:
    """Yield a log in a folder; close it at the end.

    Raises:
        RobodiffError: another process writes there, or the folder holds something else, or a recording with other keys.
    """
    with locked(folder), naming(folder):
        log = Log(folder, policy)
        try:
            yield log
        finally:
            log.close()
