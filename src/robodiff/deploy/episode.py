"""The outcome of an episode of the real-time loop."""

from dataclasses import dataclass, field

import numpy as np

from robodiff.deploy.limits import FAULTS
from robodiff.text import counted


@dataclass
class ChunkTiming:
    """When a chunk was requested and when it arrived, in seconds since the loop began."""

    step: int
    """The step at which it was requested."""
    asked: float
    """When that step began."""
    arrived: float | None = None
    taken: int | None = None
    """The step at which its execution began."""


@dataclass
class Episode:
    """One episode."""

    spacing: float
    """Nominal seconds from one step to the next."""
    reason: str = ""
    """Why it ended."""
    failed: bool = False
    """Whether a fault ended it."""
    interrupted: bool = False
    """Whether Ctrl-C or a termination signal ended it."""
    success: bool | None = None
    """Whether the robot reports success; None if it reports nothing."""
    steps: list[int] = field(default_factory=list)
    """Steps that were executed; the loop skips steps when it is held up."""
    executed: list[float] = field(default_factory=list)
    """When the action of each was executed, in seconds since the loop began."""
    chunks: list[ChunkTiming] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Number of steps at which each of ``FAULTS`` occurred."""

    @property
    def jitter(self) -> np.ndarray:
        """Absolute error of each period, in seconds."""
        return abs(np.diff(self.executed) - np.diff(self.steps) * self.spacing)

    @property
    def latencies(self) -> np.ndarray:
        """How long each chunk took, in seconds."""
        return np.array([each.arrived - each.asked for each in self.chunks if each.arrived is not None])

    @property
    def summary(self) -> dict[str, float]:
        """The figures, by name: milliseconds, and numbers of steps."""
        figures: dict[str, float] = {"steps": len(self.steps), "chunks": len(self.latencies), **self.counts}
        for name, seconds in (("period_error_ms", self.jitter), ("latency_ms", self.latencies)):
            quantiles = 1e3 * np.quantile(seconds if len(seconds) else [0.0], (0.5, 0.95, 1.0))
            figures |= {
                f"{name}_{label}": round(float(q), 3) for label, q in zip(("p50", "p95", "max"), quantiles, strict=True)
            }
        return figures

    def __str__(self) -> str:
        f = self.summary
        outcome = {None: "", True: "success; ", False: "no success; "}[self.success]
        faults = [f"{FAULTS[name]} at {counted(number, 'step')}" for name, number in self.counts.items() if number]
        end = f"{outcome}ended after {counted(f['steps'], 'step')}: {self.reason}"
        if not self.steps:
            return end
        return "\n".join(
            [
                end,
                f"  {1 / self.spacing:g} Hz; period error p50 {f['period_error_ms_p50']:.2f}, "
                f"p95 {f['period_error_ms_p95']:.2f}, max {f['period_error_ms_max']:.2f} ms",
                f"  {counted(f['chunks'], 'chunk')}; latency p50 {f['latency_ms_p50']:.1f}, "
                f"p95 {f['latency_ms_p95']:.1f}, max {f['latency_ms_max']:.1f} ms",
                *(f"  {fault}" for fault in faults),
            ]
        )
