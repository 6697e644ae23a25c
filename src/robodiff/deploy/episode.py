"""What came about in an episode of the real-time loop."""

from dataclasses import dataclass, field

import numpy as np

from robodiff.deploy.limits import FAULTS
from robodiff.text import counted


@dataclass
class ChunkTiming:
    """When a chunk was asked for and when it came, in seconds since the loop began."""

    step: int
    """At which it was asked for."""
    asked: float
    """When that step began."""
    arrived: float | None = None
    taken: int | None = None
    """The step from which on it was executed."""


@dataclass
class Episode:
    """One episode."""

    spacing: float
    """Seconds from one step to the next, as it should be."""
    reason: str = ""
    """Why it ended."""
    failed: bool = False
    """Whether that was a fault."""
    interrupted: bool = False
    """Whether it was ended by Ctrl-C or a request to terminate."""
    success: bool | None = None
    """What the robot says of it; None where it says nothing."""
    steps: list[int] = field(default_factory=list)
    """Those that were done: some are missing where the loop was kept from running."""
    executed: list[float] = field(default_factory=list)
    """When the action of each was executed, in seconds since the loop began."""
    chunks: list[ChunkTiming] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """At how many steps which of ``FAULTS`` came about."""

    @property
    def jitter(self) -> np.ndarray:
        """By how much each period was longer or shorter than it should be, in seconds."""
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
                f"  {counted(f['chunks'], 'chunk')}, which took p50 {f['latency_ms_p50']:.1f}, "
                f"p95 {f['latency_ms_p95']:.1f}, max {f['latency_ms_max']:.1f} ms",
                *(f"  {fault}" for fault in faults),
            ]
        )
