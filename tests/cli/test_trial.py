"""``robodiff trial``: blind, resumed, asked and told; on a simulated robot and on a robot's file."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.deploy.test_robot import write_robot
from tests.policies.test_diffusion import FLOW

from robodiff.data.recordings import open_path
from robodiff.deploy.loop import ControlLoop
from robodiff.envs.robot import EnvRobot
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.diffusion import DiffusionPolicy

Run = Callable[..., tuple[int, str, str]]
SHORT = ("--seconds", 0.2, "--patience", 100)


@pytest.fixture
def policies(small_policy: Callable[..., DiffusionPolicy], tmp_path: Path) -> tuple[Path, Path]:
    for name, changes in (("alpha", {}), ("beta", {"n_action_steps": 4})):
        save_policy(small_policy(**FLOW, **changes), tmp_path / name)
    return tmp_path / "alpha", tmp_path / "beta"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Sit a person at a terminal, who types these words; return what she is asked."""

    def sit(words: str) -> list[str]:
        prompts: list[str] = []
        typed = iter(words.split(","))

        def answer(prompt: str) -> str:
            prompts.append(prompt)
            if (word := next(typed, None)) is None:
                raise EOFError
            return word

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", answer)
        return prompts

    return sit


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note of each episode how many steps of a chunk its policy executes, and the seed."""
    episodes: list[tuple[int, int]] = []
    run = ControlLoop.run

    def noting(self: ControlLoop, seconds: float, seed: int, record: object) -> object:
        episodes.append((self.timing.n_action_steps, seed))
        return run(self, seconds, seed, record)  # type: ignore[arg-type]

    monkeypatch.setattr(ControlLoop, "run", noting)
    return episodes


def test_blind_until_the_end_and_resumed_as_if_never_stopped(
    robodiff: Run, policies: tuple[Path, Path], tmp_path: Path, acted: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [path.name for path in policies]
    command = ("trial", *policies, "--robot", "env:pusht", "--success", "auto", "--episodes", 2, *SHORT)
    code, out, err = robodiff(*command, "--out", tmp_path / "whole")
    assert code == 0, err
    header, *during = out.splitlines()
    assert all(name in header for name in names)
    assert [line[:20] for line in during[:4]] == [f"pair {n}, episode {k} of" for n in (1, 2) for k in (1, 2)]
    assert not any(name in line for line in during[:4] for name in names)
    assert [f"{name}: 0 of 2 episodes succeeded" in out for name in map(str, policies)] == [True, True]
    assert "2 of at most 2 episodes do not decide" in out
    assert f"report: {tmp_path / 'whole' / 'report.html'}" in " ".join(out.split())
    assert "2 of at most 2 episodes do not decide" in (tmp_path / "whole" / "report.html").read_text()
    whole, order = json.loads((tmp_path / "whole" / "trial.json").read_text()), [*acted]
    assert [seed for _, seed in order] == [100000, 100000, 100001, 100001]
    assert all({first, second} == {4, 8} for (first, _), (second, _) in zip(order[::2], order[1::2], strict=True))
    began = [[8, 4][pair["began"]] for pair in whole["answer"]["pairs"]]
    assert began == [steps for steps, _ in order[::2]]
    for name in ("first.zarr", "second.zarr"):
        episodes = open_path(str(tmp_path / "whole" / name)).read_chosen()
        assert len(episodes) == 2
        assert np.isfinite(episodes.arrays["action"]).all()

    class Killed(BaseException):
        pass

    run, left = ControlLoop.run, iter([True, True, True])

    def killed(self: ControlLoop, *arguments: object) -> object:
        if not next(left, False):
            raise Killed
        return run(self, *arguments)  # type: ignore[arg-type]

    acted.clear()
    with monkeypatch.context() as patch:
        patch.setattr(ControlLoop, "run", killed)
        with pytest.raises(Killed):
            robodiff(*command, "--out", tmp_path / "parts")
    kept = json.loads((tmp_path / "parts" / "trial.json").read_text())
    assert (len(kept["attempts"]), kept["answer"]) == (3, None)
    code, out, err = robodiff(*command, "--out", tmp_path / "parts")
    assert code == 0, err
    assert "It goes on after 3 episodes." in out
    assert acted == order
    parts = json.loads((tmp_path / "parts" / "trial.json").read_text())
    assert parts["answer"] == whole["answer"]
    assert len(open_path(str(tmp_path / "parts" / "first.zarr")).read_chosen()) == 2

    acted.clear()  # over: the answer is told once more
    code, out, err = robodiff(*command, "--out", tmp_path / "parts")
    assert (code, acted) == (0, []), err
    assert "2 of at most 2 episodes do not decide" in out


def test_a_person_judges_and_what_must_not_count_is_repeated(
    robodiff: Run, policies: tuple[Path, Path], tmp_path: Path, acted: list, answers: Callable[[str], list[str]]
) -> None:
    prompts = answers(",y,,what,again,,n")
    command = ("trial", *policies, "--robot", write_robot(tmp_path), "--out", tmp_path / "trial", *SHORT)
    code, out, err = robodiff(*command, "--episodes", 2)
    assert code == 130, err
    assert "stopped after 1 whole pair; the same command goes on" in out
    assert ["choose a start" in prompts[0], "restore the start" in prompts[2], len(prompts)] == [True, True, 8]
    assert "alpha" not in "".join(prompts)
    first, (second, _), (again, _) = acted
    assert first[0] != second == again
    attempts = json.loads((tmp_path / "trial" / "trial.json").read_text())["attempts"]
    assert [attempt["success"] for attempt in attempts] == [True, False]
    repeated = "first.zarr" if second == 8 else "second.zarr"
    table = open_path(str(tmp_path / "trial" / repeated)).read_chosen().columns(int, bool)
    assert [*map(int, table["counts"])] == [0, 1]

    answers("")
    code, out, err = robodiff(*command, "--episodes", 1)  # so many there are: it ends
    assert code == 0, err
    assert "1 of at most 1 episode do" in out


def test_ctrl_c_stops_the_robot_and_the_episode_does_not_count(
    robodiff: Run, policies: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops, execute, count = [], EnvRobot.execute, iter(range(100))

    def executing(self: EnvRobot, action: np.ndarray) -> None:
        execute(self, action)
        if next(count) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(EnvRobot, "execute", executing)
    monkeypatch.setattr(EnvRobot, "stop", lambda self: stops.append(self), raising=False)
    code, out, err = robodiff("trial", *policies, "--robot", "env:pusht", "--success", "auto", "--out",
                              tmp_path / "trial", "--seconds", 3, "--patience", 100)  # fmt: skip
    assert (code, len(stops)) == (130, 1), err
    assert "stopped after 0 whole pairs; the same command goes on" in out
    assert json.loads((tmp_path / "trial" / "trial.json").read_text())["attempts"] == []
    kept = [path for path in tmp_path.glob("trial/*.zarr") if (path / "meta" / "episode_ends").exists()]
    assert [len(open_path(str(path)).read_chosen()) for path in kept] == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{a}", "{b}", "--robot", "env:pusht"), "--success asked needs a terminal to ask in; give --success auto"),
        (
            ("{a}", "{a}", "--robot", "env:pusht", "--success", "auto"),
            "is to be compared with itself; name two policies",
        ),
        (("{a}", "--robot", "env:pusht", "--success", "auto"), "SECOND is missing"),
        (("{a}", "{b}", "--success", "auto"), "--robot is missing"),
        (("{a}", "{b}", "--robot", "{robot}", "--success", "auto"), "has no success; give --success asked"),
        (("{a}", "{b}", "--robot", "{telling}", "--success", "auto"), "(it has no ended); give --seconds"),
        (
            ("{a}", "{b}", "--robot", "{telling}", "--success", "auto", "--seconds", "1"),
            "has no reset(): somebody at a terminal must",
        ),
        (("{a}", "{b}", "--robot", "env:lift_cube", "--success", "auto"), "lift_cube"),
        (("{a}", "{b}", "--robot", "env:pusht", "--success", "maybe"), "--success: expected one of asked, auto"),
        (("{a}", "{b}", "--robot", "env:pusht", "--smallest_difference", "2"), "--smallest_difference: expected float"),
    ],
)
def test_mistakes_get_a_line(
    robodiff: Run, policies: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    robot = write_robot(tmp_path)
    telling = tmp_path / "telling.py"
    telling.write_text("success = True\ndef observe():\n    return {}\ndef execute(action):\n    pass\n")
    given = {"a": policies[0], "b": policies[1], "robot": robot, "telling": telling}
    words = [word.format(**given) for word in arguments]
    code, _, err = robodiff("trial", *words, "--out", tmp_path / "trial")
    assert (code, "Traceback" in err) == (2, False), err
    assert message in err
    assert len(err.strip().splitlines()) <= 2


def test_a_robot_that_does_not_tell(robodiff: Run, policies: tuple[Path, Path], tmp_path: Path) -> None:
    robot = tmp_path / "silent.py"
    robot.write_text(
        "import numpy as np\nsuccess = None\ndef reset():\n    pass\n"
        "def observe():\n    return {'observation.state': np.zeros(2), 'observation.environment_state': np.zeros(16)}\n"
        "def execute(action):\n    pass\n"
    )
    code, _, err = robodiff("trial", *policies, "--robot", robot, "--success", "auto", "--out", tmp_path / "t", *SHORT)
    assert code == 1
    assert "the robot does not say whether the episode succeeded (its success is None)" in err


def test_a_served_policy_and_an_environment(robodiff: Run, policies: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("websockets")
    from tests.deploy.serving import serving

    with serving(load_policy(policies[0])) as url:
        where = ("--robot", "env:pusht", "--success", "auto", "--out", tmp_path / "trial")
        code, out, err = robodiff("trial", url, policies[1], *where, "--episodes", 1, "--best_of", 2, *SHORT)
    assert (code, f"{url}: 0 of 1 episode succeeded" in out) == (0, True), err
