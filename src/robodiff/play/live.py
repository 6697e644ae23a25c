"""The stage in time: a thread of its own, in which everything of the environment happens, drawing included."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from robodiff.errors import RobodiffError, first_line, in_one_line
from robodiff.play.messages import Message
from robodiff.play.stage import Stage
from robodiff.text import shortened

MOST_SKIPPED = 4
"""Pictures that are left out one after another where drawing does not keep up with time."""
BEHIND = 0.5
"""Seconds behind time after which what is lost is not made up for."""
LONGEST_NOTE = 500

_LOOK = Message(do="hand")
"""Changes nothing, and has the stage drawn."""
Publish = Callable[[dict[str, Any], bytes | None], None]
"""Called in the thread with the state and, where one was drawn, the picture."""


class Live(threading.Thread):
    """Run a stage at its rate until it is closed.

    Args:
        open_stage: makes the stage, in the thread, and closes it.
        publish: what is told of every change.
        failed: called in the thread if the stage cannot be made, or the thread ends by an error.
    """

    def __init__(
        self,
        open_stage: Callable[[], AbstractContextManager[Stage]],
        publish: Publish,
        failed: Callable[[Exception], None],
    ) -> None:
        super().__init__(name="stage", daemon=True)
        self._open, self._publish, self._failed = open_stage, publish, failed
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.opened = threading.Event()
        """Set once ``about`` is there, or nothing will be."""
        self.about: dict[str, Any] = {}
        """See ``Stage.about``."""
        self._is_watched = False

    def post(self, message: Message) -> None:
        """Have the stage handle a message."""
        self._messages.put(message)

    def watch(self, is_watched: bool) -> None:
        """Tell whether somebody watches: nothing is drawn, and an episode is paused, while nobody does."""
        self._is_watched = is_watched
        self._messages.put(_LOOK if is_watched else Message(do="pause"))

    def close(self) -> None:
        """End the thread, after the step that is under way."""
        self._messages.put(None)
        self.join()

    def run(self) -> None:
        """See ``Thread.run``."""
        try:
            with self._open() as stage:
                self.about = stage.about()
                self.opened.set()
                self._run(stage)
        except Exception as error:
            self._failed(error)
        finally:
            self.opened.set()

    def _run(self, stage: Stage) -> None:
        due, skipped = time.monotonic(), 0
        while True:
            now = time.monotonic()
            moves = stage.is_moving
            due = max(due, now - BEHIND)
            messages, changed = self._received(due - now if moves else None), False
            due = due if moves else time.monotonic()  # what was waited for does not count as lost
            for message in messages:
                if message is None:
                    return
                changed |= message.do != "hand" or message is _LOOK
                _trying(stage, lambda message=message: stage.handle(message))
            if moves and stage.is_moving and time.monotonic() >= due:
                _trying(stage, stage.tick)
                due += 1 / (stage.spec.fps * stage.speed)
                changed = True
            if changed:
                late = stage.is_moving and time.monotonic() > due and skipped < MOST_SKIPPED
                skipped = skipped + 1 if late else 0
                self._tell(stage, draws=not late)

    def _received(self, seconds: float | None) -> list[Message | None]:
        """Return the messages that are there, waiting for the first one so long; None waits for ever."""
        received = []
        try:
            received.append(self._messages.get(timeout=None if seconds is None else max(0.0, seconds)))
            while True:
                received.append(self._messages.get_nowait())
        except queue.Empty:
            return _latest(received)

    def _tell(self, stage: Stage, draws: bool) -> None:
        picture = None
        if draws and self._is_watched:
            try:
                picture = stage.picture()
            except RobodiffError as error:
                stage.note = shortened(first_line(error), LONGEST_NOTE)
        self._publish(stage.state(), picture)


def _latest(messages: list[Message | None]) -> list[Message | None]:
    """Return messages without those that one of their kind follows at once, and of which the last alone counts."""
    return [
        each
        for each, after in zip(messages, [*messages[1:], None], strict=False)
        if each is None or after is None or each.do != "drag" or after.do != "drag"
    ]


def _trying(stage: Stage, do: Callable[[], None]) -> None:
    """Do something; where it fails, or the disk is full, say so and stop time, but go on: it can be tried again."""
    try:
        do()
    except (RobodiffError, OSError) as error:
        stage.note = shortened(in_one_line(error), LONGEST_NOTE)
        stage.paused = stage.phase == "running"
