"""The cameras of a LeRobot data set: images decoded once, from videos or from pictures in parquet files."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from robodiff.data.cache import Part, assembled, file_state
from robodiff.data.episodes import Feature, Finding, raise_faults
from robodiff.data.formats.lerobot.meta import Episode, Meta
from robodiff.data.formats.lerobot.parquet import paths_in
from robodiff.data.formats.lerobot.rows import episode_table, split
from robodiff.data.formats.lerobot.spans import ADVICE, span_faults, video_end
from robodiff.data.formats.lerobot.video import TOLERANCE, decode_frames
from robodiff.data.formats.pictures import decode_picture, picture_in
from robodiff.data.images import resized
from robodiff.errors import RobodiffError
from robodiff.files import reading

FRAMES_PER_PART = 2000  # of a video: few seconds of work to lose, and far more than finding the first frame costs


@dataclass(frozen=True)
class Camera:
    """One key of images in videos or pictures, which are decoded at another size where ``resize`` says it."""

    meta: Meta
    key: str
    feature: Feature
    """As recorded."""
    resize: tuple[int, int] | None

    @property
    def size(self) -> tuple[int, int]:
        """Recorded height and width."""
        return self.feature.shape[1], self.feature.shape[2]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Recorded height, width and channels."""
        return (*self.size, self.feature.shape[0])

    def read(self, files: list[list[Episode]], cache: Path | None) -> np.ndarray:
        """Return (N, C, H, W) uint8, memory-mapped."""
        if self.meta.features[self.key].dtype == "video":
            raise_faults(str(self.meta.root), span_faults(self.meta, self.key, [*chain(*files)], video_end))
            parts = [self.video_part(run) for run in self.runs(chain(*files))]
        else:
            parts = [self.picture_part(episodes) for episodes in files]
        shape = (self.feature.shape[0], *(self.resize or self.size))
        return assembled(f"{self.meta.root}: {self.key}", parts, shape, np.dtype(np.uint8), cache)

    def runs(self, episodes: Iterable[Episode]) -> Iterator[list[Episode]]:
        """Yield episodes that follow one another in one video, up to about ``FRAMES_PER_PART`` frames together."""
        run: list[Episode] = []
        frames, end = 0, 0.0
        for episode in episodes:
            video, start, _ = episode.videos[self.key]
            is_next = run and video == run[0].videos[self.key].video and start >= end
            if run and not (is_next and frames + episode.length <= FRAMES_PER_PART):
                yield run
                run, frames = [], 0
            run.append(episode)
            frames, end = frames + episode.length, start + (episode.length - TOLERANCE) / self.meta.fps
        yield run

    def video_part(self, episodes: list[Episode]) -> Part:
        """Return the images of episodes in one video."""
        path = self.meta.root / episodes[0].videos[self.key].video

        def times(some: list[Episode]) -> np.ndarray:
            return np.concatenate([e.videos[self.key].start + np.arange(e.length) / self.meta.fps for e in some])

        def images(left: list[Episode]) -> Iterator[np.ndarray]:
            return decode_frames(path, times(left), self.meta.fps, self.size, self.resize, self.feature.shape[0])

        recipe = f"{hashlib.sha256(times(episodes).tobytes()).hexdigest()} {self.resize}"
        return Part(path, sum(e.length for e in episodes), recipe, lambda: self.decoded(episodes, images))

    def picture_part(self, episodes: list[Episode]) -> Part:
        """Return images that are embedded in one parquet file, or that it names."""
        path, root = self.meta.root / episodes[0].data, self.meta.root

        def decode() -> Iterator[np.ndarray]:
            with reading(path, "a parquet file of pictures"):
                table, rows = episode_table(self.meta, self.key, episodes)
                rows_of = dict(zip([e.number for e in episodes], split(rows, episodes), strict=True))

                def images(left: list[Episode]) -> Iterator[np.ndarray]:
                    for row in (row for episode in left for row in rows_of[episode.number].tolist()):
                        picture = picture_in(root, table[self.key][row].as_py())
                        image = decode_picture(f"{path}: {self.key} in row {row}", picture, self.shape)
                        yield resized(image.transpose(2, 0, 1)[None], self.resize)

                yield from self.decoded(episodes, images)

        states = [file_state(file) for name in paths_in(path, self.key) if (file := root / name).is_file()]
        files = hashlib.sha256("\n".join(states).encode()).hexdigest() if states else ""
        recipe = f"{self.key} {[episode.number for episode in episodes]} {self.resize} {files}"
        return Part(path, sum(episode.length for episode in episodes), recipe, decode)

    def decoded(
        self, episodes: list[Episode], images: Callable[[list[Episode]], Iterator[np.ndarray]]
    ) -> Iterator[np.ndarray]:
        """Yield the images of episodes; what follows a faulty one is decoded, too, to tell all that is wrong."""
        faults = []
        while episodes:
            done = 0
            try:
                for image in images(episodes):
                    yield image
                    done += 1
                break
            except RobodiffError as error:
                ends = np.cumsum([episode.length for episode in episodes])
                place = int(np.searchsorted(ends, done, side="right"))
                frame = done - int(ends[place]) + episodes[place].length
                faults.append(self.fault(error, episodes[place], frame))
                episodes = episodes[place + 1 :]
        raise_faults(str(self.meta.root), faults)

    def fault(self, error: RobodiffError, episode: Episode, frame: int) -> Finding:
        """Return that images of an episode cannot be decoded from a frame on."""
        text = str(error).removeprefix(f"{self.meta.root}/")
        message = f"{text} ({self.key}, frame {frame} of episode {episode.number})"
        return Finding("fatal", "images", message, ADVICE, self.key, episode.number)
