"""The stage: one environment, who acts in it, and what of it is kept. Knows neither time nor network."""

import io
import math
from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np

from robodiff.envs.spec import EnvSpec, raise_for_env
from robodiff.envs.touch import Hand, Mover
from robodiff.errors import UsageError
from robodiff.evaluation.config import measured_seeds
from robodiff.play.actor import Actor, Fan
from robodiff.play.messages import Message
from robodiff.play.recorder import Frames, Recorder
from robodiff.text import counted, shortened

Phase = Literal["ready", "running", "ended"]
SECONDS_OF_SUCCESS = 1.0
"""How long a success of a person's must last until the episode ends: what stops at its edge teaches to stop there."""
MOST_STEPS = 20_000
"""Of an episode: it is in memory until it is kept."""
LONGEST_NAME = 200
"""Characters of a name that are sent."""


class Stage:
    """One environment under somebody's hands.

    Args:
        spec: the environment.
        keys: what is observed.
        actor: who acts where no person does; None where a person demonstrates.
        recorder: what keeps episodes; None where none is kept.
        seed: of the first episode.
        name: of the policy.

    Raises:
        UsageError: nobody can act, or nothing can be seen.
    """

    def __init__(
        self,
        spec: EnvSpec,
        keys: Collection[str],
        actor: Actor | None,
        recorder: Recorder | None,
        seed: int,
        name: str = "",
    ) -> None:
        self.spec, self.touch, self.actor, self.recorder, self._name = spec, spec.touch, actor, recorder, name
        check_playable(spec, actor is not None)
        with raise_for_env(f"the environment {spec.name} cannot be made"):
            self.env: Any = spec.make(keys)
        self.speed, self.paused, self.note = 1.0, False, ""
        self._whose, self._warns_of_seeds = 0, recorder is not None
        self.reset(seed)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    @property
    def is_moving(self) -> bool:
        """Whether time goes on."""
        return self.phase == "running" and not self.paused

    def reset(self, seed: int) -> None:
        """Begin an episode, which waits until somebody starts it."""
        with raise_for_env(f"the environment {self.spec.name} cannot begin the episode of seed {seed}"):
            self._seen = self.env.reset(seed=seed)[0]
        self.seed, self.phase, self.success, self.reward = seed, "ready", False, 0.0
        self._fans, self._paths = list[Fan](), list[dict[str, Any]]()
        self._frames, self._successes, self._disturbed = Frames(), 0, False
        self._mover: Mover | None = None
        self.paused = False
        if self.actor is not None:
            self.actor.reset(seed)
        self._set_person(self.actor is None)

    def handle(self, message: Message) -> None:
        """Do what a message asks for.

        Raises:
            UsageError: it cannot be done now; nothing is changed.
            RobodiffError: the environment or the policy failed.
        """
        if message.do != "hand" or self.phase != "ready":  # a pointer on its way to the start leaves time to read it
            self.note = ""
        getattr(self, f"_{message.do}")(message)

    def tick(self) -> None:
        """Take one step.

        Raises:
            RobodiffError: the environment or the policy failed.
        """
        if self.by_person:
            assert self.touch is not None
            with raise_for_env(f"the pointer of {self.spec.name} failed"):
                action = self.touch.act(self.env, self.hand)
            self.hand = replace(self.hand, lift=0.0, turn=0.0, grip=False)
        else:
            assert self.actor is not None
            action = self.actor.act(self._seen)
            if self.actor.fans is not self._fans:
                self._fans, self._paths = self.actor.fans, [*map(self._traced, self.actor.fans)]
        with raise_for_env(f"the environment {self.spec.name} failed at step {len(self._frames)} of seed {self.seed}"):
            seen, reward, terminated, truncated, info = self.env.step(action)
        self._frames.add(self._seen, action, self.by_person)
        self._seen, self.success, self.reward = seen, bool(info["is_success"]), float(reward)
        self._successes = self._successes + 1 if self.success else 0
        enough = max(1, round(SECONDS_OF_SUCCESS * self.spec.fps)) if self.by_person else 1
        too_long = len(self._frames) >= MOST_STEPS or (truncated and not self.by_person and not self._was_taken())
        if self._successes >= enough or (terminated and not self.success) or too_long:
            self.phase = "ended"

    def about(self) -> dict[str, Any]:
        """Return what stays the same, for the page."""
        touch = self.touch
        bodies = touch.sketch(self.env) if touch and touch.sketch else []
        return {
            "kind": "about",
            "env": shortened(self.spec.name, LONGEST_NAME),
            "goal": shortened(self.spec.success, 1000),
            "fps": self.spec.fps,
            "agents": [shortened(agent, LONGEST_NAME) for agent in self.spec.agents],
            "keys": list(touch.keys) if touch else [],
            "can_act": touch is not None,
            "can_grab": touch is not None and touch.grab is not None,
            "bodies": [asdict(each.shape) for each in bodies],
            "policy": None if self.actor is None else shortened(self._name, LONGEST_NAME),
            "samplers": [] if self.actor is None else [*self.actor.samplers],
            "records": self.recorder is not None,
        }

    def state(self) -> dict[str, Any]:
        """Return how things are, for the page."""
        touch, actor = self.touch, self.actor
        bodies = touch.sketch(self.env) if touch and touch.sketch else []
        return {
            "kind": "state",
            "phase": self.phase,
            "paused": self.paused,
            "seed": self.seed,
            "step": len(self._frames),
            "success": self.success,
            "reward": self.reward if math.isfinite(self.reward) else None,
            "by_person": self.by_person,
            "taken": self._was_taken(),
            "disturbed": self._disturbed,
            "holds": self._mover is not None,
            "kept": self.recorder.kept if self.recorder else 0,
            "can_keep": self._unkeepable() is None,
            "bodies": [[round(number, 5) for number in each.pose] for each in bodies],
            "hand": [round(self.hand.x, 5), round(self.hand.y, 5)],
            "plumb": np.round(touch.plumb(self.env, self._whose), 4).tolist() if touch and touch.plumb else [],
            "agent": self._whose,
            "speed": self.speed,
            "fans": self._shown(),
            "age": 0 if actor is None else actor.age,
            "chunk_ms": 0 if actor is None else actor.milliseconds,
            "sampler": "" if actor is None else actor.sampled.sampler,
            "steps": 0 if actor is None else actor.sampled.steps,
            "samples": 0 if actor is None else actor.samples,
            "note": self.note,
        }

    def picture(self) -> bytes | None:
        """Return the scene as a JPEG; None where its bodies are drawn."""
        if self.touch and self.touch.sketch:
            return None
        from PIL import Image

        with raise_for_env(f"the environment {self.spec.name} cannot be drawn"):
            pixels = np.asarray(self.env.render())
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
        return buffer.getvalue()

    def _shown(self) -> list[dict[str, Any]]:
        """Return the chunks that are shown, for the page: how they came about at their first step alone, for it is
        much."""
        if self.actor is None or self.by_person or not self.actor.fans:
            return []
        return self._paths if self.actor.age == 1 else [{**each, "stages": []} for each in self._paths]

    def _traced(self, fan: Fan) -> dict[str, Any]:
        """Return where chunks that begin now lead in the picture, and led while they came about, for the page."""
        trace = self.touch.trace if self.touch else None
        traced = [[trace(self.env, fan.agent, each) for each in stage] for stage in fan.stages] if trace else [[]]
        *stages, paths = np.round(traced, 4).tolist()
        return {"agent": fan.agent, "number": fan.number, "chosen": fan.chosen, "paths": paths, "stages": stages}

    def _set_person(self, by_person: bool) -> None:
        """Set who acts; a person's hand begins where the agent's is."""
        self.by_person = by_person and self.touch is not None
        x, y = self.touch.where(self.env, self._whose) if self.touch else (0.5, 0.5)
        self.hand = Hand(x, y, agent=self._whose)

    def _was_taken(self) -> bool:
        return self.actor is not None and any(self._frames.by_person)

    def _unkeepable(self) -> str | None:
        """Return why an episode cannot be kept; None where it can."""
        if self.recorder is None:
            return "nothing is recorded; give --out"
        if self.phase != "ended" or not len(self._frames):
            return "the episode has not ended"
        if self.actor is not None and not self._was_taken():
            return "nobody took over: there is nothing to learn from the episode"
        return None

    def _warning_of_seeds(self) -> str:
        """Return what is wrong with the seed of an episode to be recorded; empty where nothing is, or it was told."""
        warning = measured_seeds(self.seed, 1, "choose a seed") if self._warns_of_seeds else ""
        self._warns_of_seeds = self._warns_of_seeds and not warning
        return warning

    def _hand(self, message: Message) -> None:
        if message.x is not None or message.y is not None:
            x, y = message.place
            self.hand = replace(self.hand, x=x, y=y)
        lift, turn = self.hand.lift + message.lift, self.hand.turn + message.turn
        self.hand = replace(self.hand, lift=lift, turn=turn, grip=self.hand.grip ^ message.grip)

    def _start(self, message: Message) -> None:
        if self.phase == "ended":
            raise UsageError("the episode has ended; begin another")
        if self.phase == "ready" and not self.by_person and self.actor is None:
            raise UsageError(f"nobody can act: {self.spec.name} does not say how a pointer does")
        self.phase, self.paused = "running", False

    def _pause(self, message: Message) -> None:
        self.paused = self.phase == "running"

    def _step(self, message: Message) -> None:
        if self.is_moving:
            raise UsageError("time goes on; pause it to go step by step")
        self._start(message)
        self.paused = True
        self._hand(message)
        self.tick()

    def _end(self, message: Message) -> None:
        if self.phase != "running":
            raise UsageError("no episode is under way")
        self.phase = "ended" if len(self._frames) else "ready"

    def _keep(self, message: Message) -> None:
        if problem := self._unkeepable():
            raise UsageError(problem)
        assert self.recorder is not None
        self.recorder.keep(self._frames, self.seed, self.success, self._disturbed)
        self._frames = Frames()  # also where the next start fails: nothing is kept twice
        self.reset(self.seed + 1)
        warning = self._warning_of_seeds()
        self.note = f"kept, {counted(self.recorder.kept, 'episode')} now" + (f"; {warning}" if warning else "")

    def _discard(self, message: Message) -> None:
        self.reset(self.seed)

    def _reset(self, message: Message) -> None:
        self.reset(self.seed if message.seed is None else message.seed)
        self.note = self._warning_of_seeds()

    def _take(self, message: Message) -> None:
        if self.touch is None:
            raise UsageError(f"{self.spec.name} does not say how a pointer acts: it can be watched alone")
        self._set_person(True)

    def _give(self, message: Message) -> None:
        if self.actor is None:
            raise UsageError("nobody else acts; give --policy")
        if self.by_person:
            self.actor.reset(self.seed, self._frames.actions)  # what it saw and planned is of before
            self._set_person(False)

    def _agent(self, message: Message) -> None:
        if message.agent >= max(1, len(self.spec.agents)):
            raise UsageError(f"{self.spec.name} has {counted(max(1, len(self.spec.agents)), 'agent')}")
        self._whose = message.agent
        self._set_person(self.by_person)

    def _grab(self, message: Message) -> None:
        if self.touch is None or self.touch.grab is None:
            raise UsageError(f"nothing can be moved by hand in {self.spec.name}")
        with raise_for_env(f"the pointer of {self.spec.name} failed"):
            self._mover = self.touch.grab(self.env, *message.place)

    def _drag(self, message: Message) -> None:
        if self._mover is not None and self.phase != "ended":
            x, y = message.place
            with raise_for_env(f"the pointer of {self.spec.name} failed"):
                self._seen = self._mover(min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0), message.turn)
            self._disturbed = True

    def _drop(self, message: Message) -> None:
        self._mover = None

    def _speed(self, message: Message) -> None:
        self.speed = message.speed

    def _sampling(self, message: Message) -> None:
        self._policy().sample(message.sampler, message.steps)

    def _samples(self, message: Message) -> None:
        self._policy().show(message.samples)

    def _policy(self) -> Actor:
        if self.actor is None:
            raise UsageError("there is no policy; give --policy")
        return self.actor


def check_playable(spec: EnvSpec, has_policy: bool) -> None:
    """Raise ``UsageError`` if nobody can act in an environment, or nothing of it can be seen."""
    if spec.touch is None and not has_policy:
        says = f"{spec.name} does not say how a pointer acts (its EnvSpec has no touch)"
        raise UsageError(f"{says}: it can be watched with --policy, not demonstrated on")
    if not spec.renders and (spec.touch is None or spec.touch.sketch is None):
        raise UsageError(f"{spec.name} draws no picture, so there is nothing to be seen")
