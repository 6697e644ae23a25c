"""Which part of a video is an episode's own: as long as its rows need, no other episode's, and within the video."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path

from robodiff.data.episodes import Finding
from robodiff.data.formats.lerobot.meta import Episode, Meta
from robodiff.data.formats.pictures import opened_video
from robodiff.errors import RobodiffError

HALF = 0.5
"""Of a frame: how far an end may be off."""
ADVICE = "record or convert it again, leave the episode out with data.episodes, or the camera with data.keys"


def span_faults(meta: Meta, key: str, chosen: Sequence[Episode], end_of: Callable[[Path], float]) -> Iterator[Finding]:
    """Find episodes whose images are not all their own.

    Args:
        meta: what the data set says.
        key: a camera in videos.
        chosen: the episodes to be read.
        end_of: returns where a video ends, in seconds, infinity where that is not known; raises ``RobodiffError`` for
            what is no video.
    """
    numbers = {episode.number for episode in chosen}
    videos: dict[str, list[Episode]] = {}
    for episode in meta.episodes:
        videos.setdefault(episode.videos[key].video, []).append(episode)
    for video, episodes in videos.items():
        if not (needing := sorted({episode.number for episode in episodes} & numbers)):
            continue
        try:
            last = end_of(meta.root / video)
        except RobodiffError as error:
            text = str(error).removeprefix(f"{meta.root}/").removesuffix("; copy or download it again")
            advice = "copy or download it again, or leave the camera out with data.keys"
            for number in needing:
                yield Finding("fatal", "images", f"{text}, and {key} needs it (episode {number})", advice, key, number)
            continue
        episodes.sort(key=lambda episode: episode.videos[key].start)
        for episode, following in zip_longest(episodes, episodes[1:]):
            if episode.number in numbers:
                yield from _faults(meta, key, episode, following, last)


def video_end(path: Path) -> float:
    """Return where a video ends, in seconds, by its head; infinity where that does not say it."""
    with opened_video(path) as (_, stream):
        lasts = [float(stream.duration * stream.time_base)] if stream.duration else []
        lasts += [float(stream.frames / stream.average_rate)] if stream.frames and stream.average_rate else []
        return float((stream.start_time or 0) * stream.time_base) + max(lasts, default=math.inf)


def _faults(meta: Meta, key: str, episode: Episode, following: Episode | None, last: float) -> Iterator[Finding]:
    """Compare an episode's span with its rows, with where the next begins in the same video, and with its last."""
    video, start, end = episode.videos[key]
    bounds = [(end, "meta/ says that it ends"), (last, "the video ends")]
    if following is not None:
        bounds.append((following.videos[key].start, f"episode {following.number} begins"))
    bound, why = min(bounds)
    fault = partial(Finding, "fatal", "images", advice=ADVICE, key=key, episode=episode.number)
    what = f"{video}: {key} of episode {episode.number}"
    own = math.floor((bound - start) * meta.fps + HALF) if math.isfinite(bound) else episode.length
    if own < episode.length:
        needed = f"{episode.length} frames from {start:.3f} s on take {episode.length / meta.fps:.3f} s"
        yield fault(f"{what} has no image of its own from frame {max(0, own)} on: {needed}, but {why} at {bound:.3f} s")
    elif math.isfinite(end) and (end - bound) * meta.fps > HALF:
        yield fault(f"{what} is said to end at {end:.3f} s, but {why} at {bound:.3f} s: frame {own} is not its own")
