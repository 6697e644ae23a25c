"""``robodiff eval``: measure a policy, in an environment or on recorded episodes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from robodiff.cli.configuration import read_run_config
from robodiff.cli.options import Options, read_options, split
from robodiff.cli.report import report_evaluation
from robodiff.data.recordings import DataConfig, open_path
from robodiff.documents import load_yaml
from robodiff.errors import UsageError
from robodiff.evaluation.comparison import compare, shared_seeds
from robodiff.evaluation.config import EvalConfig, OfflineConfig
from robodiff.evaluation.results import EnvResult, OfflineResult, read_result, write_result
from robodiff.evaluation.runs import VIDEO_FOLDER, Evaluation, run_of
from robodiff.progress import bar, say

RECORDING = ("layout", "key_map", "fps", "revision")
"""Options that say of a recording what it does not say itself."""
IN_ENV = ("episodes", "num_envs", "videos", "against")
OFFLINE = ("data", "windows", *RECORDING, "data_options")
"""Options that have a meaning only with --env, and only without."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Options):
    """Run episodes of a policy in an environment and tell how many succeed; without --env, tell how far its actions are
    from recorded ones.

    An episode depends on its seed alone: with the same --num_envs, any split of the seeds gives the same records.

    Examples:
      robodiff eval runs/first --env pusht
      robodiff eval runs/first
      robodiff eval runs/second --env pusht --against runs/first
      robodiff eval runs/first --env pusht --episodes 50 --seed 100000 --sampler flow --steps 3
    """

    positional = ("policy",)

    policy: str
    """A run, a policy's folder, or a repository of the Hugging Face hub."""
    env: str | None = None
    """The environment, such as pusht. Without one, the policy's actions are compared with those of its run's held-out
    episodes."""
    episodes: int | None = None
    """With --env: how many episodes; 100 when not given."""
    seed: int | None = None
    """Seed of the first episode, the others follow; without --env, of the noise; 100000 when not given."""
    num_envs: int | None = None
    """With --env: episodes stepped together, with one policy call; 100 when not given."""
    sampler: str | None = None
    """ddpm, ddim, dpmsolver++, flow or flowheun, in place of the policy's own."""
    steps: int | None = None
    """Denoising steps, in place of the policy's own number."""
    device: str = "cpu"
    """Where the policy runs: cpu, cuda, ..."""
    videos: int | None = None
    """With --env: videos of so many successes and so many failures; 3 when not given."""
    against: str | None = None
    """With --env: another policy, which is evaluated on the same seeds, or the folder of an evaluation; the two are
    compared episode by episode."""
    data: str | None = None
    """Without --env: another recording, all of whose episodes are measured; builtin:pusht is the one inside the package.
    --data.NAME sets any option of its format."""
    layout: str | None = None
    """What the recording's keys are, if it does not say it itself."""
    key_map: dict[str, str] | None = None
    """Key in the recording -> name here, in its place."""
    fps: float | None = None
    """Frames per second, if the recording does not say it itself."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    windows: int | None = None
    """Without --env: how many windows, evenly spread, are measured; 2000 when not given."""
    out: str | None = None
    """Folder to write to; inside the run when not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in IN_ENV if self.env is None else OFFLINE:
            if getattr(self, name, None) is not None:
                remedy = "episodes in an environment; give" if self.env is None else "recorded episodes; leave out"
                raise UsageError(f"--{name} is for {remedy} --env, or leave it out")
        for name in RECORDING:
            if self.data is None and getattr(self, name) is not None:
                raise UsageError(f"--{name} says more of the recording that --data names; give --data, or leave it out")
        _ = self.config  # checks the bounds

    @property
    def config(self) -> EvalConfig | OfflineConfig:
        """What of it says how to measure."""
        kind = OfflineConfig if self.env is None else EvalConfig
        values = {each.name: getattr(self, each.name) for each in fields(kind)}
        return kind(**{name: value for name, value in values.items() if value is not None})
