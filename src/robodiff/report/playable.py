"""What the player and the list of episodes are given of a recording: see ``player.js`` and ``view.js``."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from robodiff.data.check import SEVERITIES
from robodiff.data.episodes import Episodes, Finding
from robodiff.data.images import SheetForm
from robodiff.report.joints import Group, named, of_kind, spread
from robodiff.report.pages import to_json
from robodiff.report.scene import drawn_scene
from robodiff.report.tiles import encode_tiles, fitted, tile_of
from robodiff.report.unusual import UNUSUAL, unusual_episodes
from robodiff.text import shortened

CARRIED = 12
"""Episodes that a page carries, the worst and some usual ones."""
LARGEST_SAMPLE = 4_000_000
"""Bytes of them in the page."""
LARGEST_PANELS = 600_000
"""Bytes of one episode's lines in the page."""
SHOWN = 240
"""Episodes of which a page shows the first frame."""
MOST_MARKS = 40
"""Findings that are marked in an episode, the worst."""
BLOCK = 60
"""Episodes whose first frames a server sends at once."""
THUMBNAIL = 72
"""Pixels along the longer side of a first frame."""
SMALLEST = 96
"""Pixels along the longer side of a picture."""
_LONGEST_NAME, _LONGEST_TEXT = 120, 300
_BYTES_OF_A_VALUE = 7
_LARGEST = 1e100
"""Of a number in a figure: beyond it, sums and differences are not finite."""


@dataclass(frozen=True)
class Budget:
    """How large the pictures of one episode may be."""

    pixels: int
    """Of all its cameras and frames."""
    longest: int
    """Along the longer side of one."""
    fluent: float
    """Pictures a second that are shown at least, smaller ones if need be."""
    form: SheetForm
    """How they are encoded."""

    def fit(self, length: int, fps: float, shape: Sequence[int], cameras: int) -> tuple[tuple[int, int], int]:
        """Return the size of a picture, and of how many frames one is shown.

        Args:
            length: frames in the episode.
            fps: of them a second.
            shape: of an image, (C, H, W).
            cameras: how many there are.
        """
        pixels, (_, height, width) = self.pixels / cameras, shape
        shown = math.ceil(length * min(1.0, self.fluent / fps))
        longest = int(math.sqrt(pixels / shown / (height * width)) * max(height, width))
        size = fitted(height, width, max(SMALLEST, min(self.longest, longest)))
        return size, max(1, math.ceil(length * size[0] * size[1] / pixels))


PAGE = Budget(2_400_000, 288, 6.0, "WEBP")
SERVED = Budget(16_000_000, 480, 15.0, "JPEG")


@dataclass(frozen=True)
class Playable:
    """A recording, episode by episode."""

    episodes: Episodes
    findings: Sequence[Finding]
    """What is wrong with it, or unusual in it, worst first."""
    groups: list[Group]
    """The joints that are shown."""

    def overview(self) -> dict[str, Any]:
        """Return of all episodes what the list shows."""
        episodes, unusual = self.episodes, self._unusual
        texts = [str(task or "") for task in episodes.table.get("task", ())]
        tasks = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        success = episodes.table.get("success", ())
        return {
            "fps": episodes.fps,
            "pictures": bool(self.cameras),
            "block": BLOCK,
            "numbers": [int(episodes.number(place)) for place in range(len(episodes))],
            "lengths": episodes.lengths.tolist(),
            "unusual": [round(value, 1) for value in unusual.values.tolist()] if unusual else [],
            "quantities": unusual.quantities.tolist() if unusual else [],
            "names": unusual.names if unusual else [],
            "threshold": UNUSUAL,
            "severities": self._severities.tolist(),
            "task": [tasks[text] for text in texts] if len(tasks) > 1 else [],
            "tasks": [shortened(text, _LONGEST_TEXT) for text in tasks],
            "failed": [not each for each in success] if {type(each) for each in success} == {bool} else [],
        }

    def episode(self, place: int, budget: Budget, largest_panels: int | None = None) -> dict[str, Any]:
        """Return one episode for the player; its pictures are within a budget, its lines within so many bytes."""
        episodes, frames = self.episodes, self.episodes.slice(place)
        length = frames.stop - frames.start
        joints = [(group, joint) for group in self.groups for joint in group.joints]
        kept = len(joints) if largest_panels is None else max(1, largest_panels // (2 * _BYTES_OF_A_VALUE * length))
        task = episodes.table.get("task", [None] * len(episodes))[place]
        return {
            "fps": episodes.fps,
            "length": length,
            "task": shortened(str(task), _LONGEST_TEXT) if task else "",
            "cameras": [self._camera(key, frames, budget) for key in self.cameras],
            "panels": [self._panel(group, joint, frames) for group, joint in joints[:kept]],
            "left_out": max(0, len(joints) - kept),
            "marks": [*self._marks(place)],
        }

    def sample(self) -> tuple[dict[int, str], list[dict[str, Any]]]:
        """Return episodes as JSON by their places, within ``LARGEST_SAMPLE`` bytes, and sheets of first frames."""
        sample, size = dict[int, str](), 0
        for place in self._most_telling(CARRIED):
            text = to_json(self.episode(place, PAGE, LARGEST_PANELS))
            if size + len(text) <= LARGEST_SAMPLE:
                sample[place] = text
                size += len(text)
        is_filmed = any(isinstance(images, np.ndarray) for images in self.cameras.values())  # to draw takes longer
        others = [place for place in self._most_telling(SHOWN) if is_filmed and place not in sample]
        shown = [*sample, *others][:SHOWN]
        return dict(sorted(sample.items())), [self.firsts(shown, "WEBP")] if self.cameras and shown else []

    def firsts(self, places: Sequence[int], form: SheetForm) -> dict[str, Any]:
        """Return the first frames of some episodes as one sheet, as the first camera sees them."""
        images = next(iter(self.cameras.values()))
        _, height, width = images[0].shape
        size = fitted(height, width, THUMBNAIL)
        tiles = [tile_of(images[self.episodes.slice(place).start], size) for place in places]
        return {"places": [*places], **asdict(encode_tiles(tiles, math.ceil(math.sqrt(len(tiles))), form))}

    @cached_property
    def cameras(self) -> Mapping[str, Any]:
        """By key, what gives the image (C, H, W) of a frame; the scene as it can be drawn, where no camera saw it."""
        images = {key: self.episodes.arrays[key] for key, _ in of_kind(self.episodes, "image")}
        scene = None if images else drawn_scene(self.episodes)
        return {f"drawn by {scene.name}": scene} if scene else images

    @cached_property
    def _unusual(self) -> Any:
        return unusual_episodes(self.episodes, self.groups)

    @cached_property
    def _found(self) -> Mapping[int, list[Finding]]:
        """By the number of an episode, what is found in it."""
        found: dict[int, list[Finding]] = {}
        for finding in self.findings:
            if finding.episode is not None:
                found.setdefault(finding.episode, []).append(finding)
        return found

    @cached_property
    def _severities(self) -> np.ndarray:
        """(E,) of the worst that is found in each episode: 0 nothing, 1 a note, 2 a warning, 3 fatal."""
        worst = np.zeros(len(self.episodes), int)
        for place in range(len(worst)):
            found = self._found.get(self.episodes.number(place), ())
            worst[place] = max((len(SEVERITIES) - SEVERITIES.index(each.severity) for each in found), default=0)
        return worst

    def _most_telling(self, most: int) -> list[int]:
        """Return episodes: by turns the next worst and the next of some that are evenly spread."""
        severe = np.where(self._severities > 1, self._severities, 0)
        values = self._unusual.values if self._unusual else np.zeros(len(severe))
        order = np.lexsort([-values, -severe]).tolist()
        usual = spread(len(order), most)
        worst = [place for place in order if severe[place] or values[place] >= UNUSUAL]
        turns = [place for pair in zip(worst, usual, strict=False) for place in pair]
        return list(dict.fromkeys([*turns, *worst[len(usual) :], *usual[len(worst) :], *order]))[:most]

    def _marks(self, place: int) -> Iterator[dict[str, Any]]:
        frames = self.episodes.slice(place)
        for finding in self._found.get(self.episodes.number(place), [])[:MOST_MARKS]:
            is_within = finding.frame is not None and frames.start <= finding.frame < frames.stop
            frame = finding.frame - frames.start if is_within and finding.frame is not None else 0
            text = f"{shortened(finding.message, _LONGEST_TEXT)}; {shortened(finding.advice, _LONGEST_TEXT)}"
            yield {"frame": frame, "text": text, "severity": finding.severity}

    def _camera(self, key: str, frames: slice, budget: Budget) -> dict[str, Any]:
        length, images = frames.stop - frames.start, self.cameras[key]
        size, every = budget.fit(length, self.episodes.fps, images[0].shape, len(self.cameras))
        tiles = [tile_of(images[frame], size) for frame in range(frames.start, frames.stop, every)]
        columns = math.ceil(math.sqrt(len(tiles) * size[0] / size[1]))
        return {
            "name": shortened(short_key(key), _LONGEST_NAME),
            "tiles": asdict(encode_tiles(tiles, columns, budget.form)),
            "every": every,
        }

    def _panel(self, group: Group, joint: Mapping[str, int], frames: slice) -> dict[str, Any]:
        name, unit = named(self.episodes, dict(joint))
        of = f"{shortened(short_key(group.keys[0]), _LONGEST_NAME)}, " * (len(self.groups) > 1 and len(group.keys) == 1)
        columns = {key: self.episodes.arrays[key][frames, dimension] for key, dimension in joint.items()}
        return {
            "name": of + name,
            "unit": unit,
            "lines": [
                {"name": shortened(short_key(key), _LONGEST_NAME), "values": rounded(column)}
                for key, column in columns.items()
            ],
        }


def short_key(key: str) -> str:
    """Return the part of a key that tells it from the others: ``top`` of ``observation.images.top``."""
    return key.removeprefix("observation.").removeprefix("images.")


def rounded(values: np.ndarray) -> list[Any]:
    """Return numbers, of any shape, with the four digits of their range that a figure can show, None for those that are
    not finite or beyond ``_LARGEST``."""
    known = np.abs(values.astype(np.float64)) <= _LARGEST
    numbers = np.where(known, values.astype(np.float64), 0.0)
    finite = numbers[known] if known.any() else np.zeros(1)
    span = max(float(np.ptp(finite)), 1e-12 * float(np.abs(finite).max()), 1e-300)
    shown = np.round(numbers, min(12, 4 - math.ceil(math.log10(span)))).astype(object)
    shown[~known] = None
    return shown.tolist()
