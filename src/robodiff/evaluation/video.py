"""H.264 videos of episodes."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from robodiff.envs.spec import EnvSpec
from robodiff.evaluation.rollout import EpisodeRecord
from robodiff.files import replacing


def replay(spec: EnvSpec, record: EpisodeRecord) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3) uint8 of an episode, from its seed and its actions."""
    environment = spec.make([])
    try:
        environment.reset(seed=record.seed)
        yield np.asarray(environment.render())
        for action in record.actions:
            environment.step(action)
            yield np.asarray(environment.render())
    finally:
        environment.close()


def write_video(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """Write frames (H, W, 3) uint8, of even height and width, as H.264 in an .mp4 that starts while it loads."""
    import av

    options = {"movflags": "+faststart"}  # the index comes first
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4", options=options) as container:
        stream = None
        for image in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], "yuv420p"
                stream.options = {"crf": "23"}
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
