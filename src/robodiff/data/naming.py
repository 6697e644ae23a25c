"""What arrays of a file are called here: by a layout or key map, by their own names, and of several agents."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION, INTERVENTION
from robodiff.errors import UsageError

AGENTS = "agents."
EACH = "each"
"""In place of an agent's id: all agents, whose keys stay apart."""
AGENT_FILES = "{agent}"
"""Stands for an agent's id in a path that names a file for each agent."""
_COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_OUTCOMES = ("reward", "rewards", "done", "dones", "terminated", "truncated", "success")
_COMMANDS = ("tcp_action",)  # RoboFactory's: the action again
NOT_OBSERVED = (*_COUNTERS, *_OUTCOMES, *_COMMANDS)
"""Last parts of names that no observation has, but where a key map says so."""


TAKEN_OVER = (INTERVENTION, "is_intervention", "complementary_info.is_intervention", "interventions")
"""What ``INTERVENTION`` is called: here, by LeRobot, by robomimic."""
NOT_SEEN = re.compile(r"(^|[._/])(depth|disparity|masks?|seg|segmentation|labels?)([._/]|$)", re.IGNORECASE)
"""In the names of planes of bytes that are not what a camera saw."""


@dataclass(frozen=True)
class LayoutKey:
    """How one key is made of an array of the file."""

    file_key: str
    """The array, by the file's own name or the last part of it."""
    convert: Callable[[str, str, np.ndarray], np.ndarray] | None = None
    """From (source, key, array), for messages, to the values here; by their shape images or vectors when None."""
    unit: str | None = None
    """Of the numbers; what the file says when None."""
    optional: bool = False
    """Left out where the file lacks it."""
    names: tuple[str, ...] = ()
    """Of the dimensions; what the file says when empty."""


Sources = dict[str, tuple[LayoutKey, ...]]
"""By the names here, of what each key is made: of one array, or of several side by side."""


def find_key(arrays: Mapping[str, Any], key: str) -> str | None:
    """Return the file's own name of the array that a key map calls ``key``: that, or the last part of it alone."""
    matches = [key] if key in arrays else [name for name in arrays if name.endswith(f"/{key}")]
    if len(matches) > 1:
        raise UsageError(f"key_map: {key!r} may be {' or '.join(matches[:4])}; write out which")
    return matches[0] if matches else None


def usual_names(kinds: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return what arrays are called here by their own names alone; None for what is not read.

    Names that are ours already stay, and where there are any, others are not guessed. Else ``action`` or ``actions``
    is the action, images ``image`` or ``img`` are ``observation.image``, other images ``observation.images.<name>``,
    and any other numbers ``observation.<name>``. Numbers of a name in ``TAKEN_OVER`` say who acted in any case.

    Args:
        kinds: per array ``image`` or ``vector``; None for what is neither. Of a name like ``data/state`` the last part
            counts.
    """
    short = {key: key.rpartition("/")[2] for key in kinds}
    prefixes = ("observation.", AGENTS)
    if any(name.startswith(prefixes) for name in short.values()):
        ours = {
            key: ACTION if name == "actions" and ACTION not in short.values() else name for key, name in short.items()
        }
        kept = {key: name if name == ACTION or name.startswith(prefixes) else None for key, name in ours.items()}
    else:
        kept = {key: _usual_name(short[key], kind) for key, kind in kinds.items()}
    return kept | {key: INTERVENTION for key, name in short.items() if name in TAKEN_OVER and kinds[key] == "vector"}


def agents_in(keys: Iterable[str]) -> list[str]:
    """Return the ids of the agents that keys name."""
    return in_order({key.split(".")[1] for key in keys if key.startswith(AGENTS)})


def of_agent(source: str, sources: Sources, agent: str | None) -> Sources:
    """Return the keys of one agent, without ``agents.<id>.``, or of all agents joined, and what is shared.

    ``each`` leaves the keys of all as they are; of a recording of one agent alone, None is that agent. Joined, vectors
    of one name are put end to end in the order of the ids; images stay apart, as
    ``observation.images.agent<id>_<camera>``.

    Raises:
        UsageError: no such agent.
    """
    if agent == EACH:
        return sources
    ids = agents_in(sources)
    agent = ids[0] if agent is None and len(ids) == 1 else agent
    if agent is not None and agent not in ids:
        known = f"there is {', '.join(ids)}" if ids else "its keys name no agents"
        raise UsageError(f"{source}: has no agent {agent!r}; {known}")
    joined = {key: made_of for key, made_of in sources.items() if not key.startswith(AGENTS)}
    for number in ids if agent is None else [agent]:
        prefix = f"{AGENTS}{number}."
        for key, made_of in sources.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                if agent is None and name.startswith("observation.image"):
                    camera = name.removeprefix("observation.image").removeprefix("s").removeprefix(".")
                    name = f"observation.images.agent{number}{'_' * bool(camera)}{camera}"
                joined[name] = joined.get(name, ()) + made_of
    return joined


def in_order(ids: Iterable[str]) -> list[str]:
    """Return ids of agents in the order in which a team has them: 2 before 10."""
    return sorted(ids, key=lambda agent: (len(agent), agent))


def _usual_name(name: str, kind: str | None) -> str | None:
    if name in (ACTION, "actions"):
        return ACTION
    if kind is None or name in NOT_OBSERVED:
        return None
    if kind == "vector":
        return f"observation.{name}"
    return "observation.image" if name in ("img", "image", "images", "rgb") else f"observation.images.{name}"
