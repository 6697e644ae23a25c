"""Which policies are evaluated: one that acts alone, or one for each agent of a team."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from robodiff.data.provenance import Planning, read_trained_on
from robodiff.deploy.artefact import is_exported
from robodiff.errors import UsageError
from robodiff.evaluation.runs import AGENT_FOLDER, agent_runs, config_file, nested, run_of
from robodiff.files import standing
from robodiff.yaml_text import read_yaml

ALONE = ""
"""In place of an agent's id: a policy that acts alone, or for all agents."""
BEST = "best"
"""What a run's best policy is called on the command line; it lies in ``policy/``."""

Members = Mapping[str, str]
"""By agent where its policy lies; of a policy that acts alone under ``ALONE``."""


def find_members(words: Sequence[str], checkpoint: str = BEST, agents: Sequence[str] = ()) -> Members:
    """Return the policies that some words name: one alone, the folder of a team, or one of each agent.

    Which agent's one is, its run says. Those whose run does not are for the others of ``agents``, in their order.

    Args:
        words: paths, or repositories of the hub.
        checkpoint: which policy of each run: ``best``, ``last``, or one that was kept, such as ``epoch-0300``.
        agents: of the environment.

    Raises:
        UsageError: two of one agent, or a run that kept no such policy.
    """
    if len(words) == 1:
        found = {agent: str(run) for agent, run in agent_runs(Path(words[0])).items()} or {ALONE: words[0]}
    else:
        told = [_agent_of(word) for word in words]
        others = dict.fromkeys([*agents, *map(str, range(2 * len(words)))])  # too many are refused by their ids
        free = iter([agent for agent in others if agent not in told])
        ids = [next(free) if agent is None else agent for agent in told]
        if twins := [agent for agent in ids if ids.count(agent) > 1]:
            raise UsageError(f"{' '.join(words)}: two policies of agent {twins[0]}; give one of each agent")
        found = dict(zip(ids, words, strict=True))
    return {agent: path if checkpoint == BEST else kept(path, checkpoint) for agent, path in found.items()}


def folder_of(members: Members) -> tuple[Path, list[str]]:
    """Return the folder in which evaluations lie, and the words that tell these policies from its others.

    It is the run, or the folder beside a policy that lies in none; of a team what holds the first one's run. Unless
    they are all of that folder's runs, and of one name, each tells its run and its own name.

    Raises:
        UsageError: no folder of a policy.
    """
    runs, kept = [], []
    for path in members.values():
        folder = Path(path)
        if not folder.is_dir():
            raise UsageError(f"{path}: no such folder; name that of a policy, or --out FOLDER for one from the hub")
        folder = folder.resolve() if folder.name in ("", "..") else folder
        runs.append(run_of(folder) or (folder.parent if is_policy(folder) else folder))
        kept.append("" if folder in (runs[-1], runs[-1] / "policy") else folder.name)
    if [*members] == [ALONE]:
        return runs[0], [*filter(None, kept)]
    home, places = runs[0].parent, [run.resolve() for run in runs]
    if {*places} == {run.resolve() for run in agent_runs(home).values()} and len({*kept}) == 1:
        return home, [*filter(None, kept[:1])]
    names = []
    for place, own in zip(places, kept, strict=True):
        parent = "" if place.parent == places[0].parent else place.parent.name
        names.append("-".join(filter(None, (parent, place.name, own))))
    return home, ["+".join(names)]


def is_policy(folder: Path) -> bool:
    """Tell whether a folder is that of a policy, exported or not."""
    return (folder / "config.json").is_file() or is_exported(folder)


def planning_of(members: Members) -> Planning | None:
    """Return how motion planning went for the demonstrations that policies were trained on, where their runs say it."""
    runs = filter(None, (run_of(Path(path)) for path in members.values()))
    return next((each.planning for run in runs if (each := read_trained_on(run)) and each.planning), None)


def _agent_of(policy: str) -> str | None:
    """Return whose policy it is, as its run says; None where that is not known."""
    if (run := run_of(Path(policy))) is None:
        return None
    name, agent = run.resolve().name, nested(read_yaml(config_file(run)), "data", "init_args", "agent")
    if agent is None and name.startswith(AGENT_FOLDER):  # of a file of its own
        agent = name.removeprefix(AGENT_FOLDER)
    return None if agent is None else str(agent)


def kept(path: str, checkpoint: str) -> str:
    """Return the folder of a policy that a run kept.

    Raises:
        UsageError: it is no run, or kept none of that name.
    """
    run = Path(path)
    config_file(run)  # a policy's folder holds no other
    folders = {BEST: run / "policy", "last": run / "policy-last"}
    folders |= {each.name: each for each in sorted(run.glob("policies/[!.]*"))}
    existing = [name for name, folder in folders.items() if (standing(folder) / "config.json").is_file()]
    if checkpoint not in existing:
        raise UsageError(f"{checkpoint}: no such policy in {run}; it has {', '.join(existing) or 'none'}")
    return str(folders[checkpoint])
