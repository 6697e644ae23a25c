"""The report: what it says of a run that has everything, little, or something broken."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.browser import Browse
from tests.conftest import Tags, use_env

from robodiff import registry
from robodiff.cli.main import main
from robodiff.data.episodes import INTERVENTION, Episodes, Feature, Finding
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.envs.pusht.env import PushTEnv
from robodiff.envs.pusht.spec import SPEC
from robodiff.envs.spec import Scene
from robodiff.errors import RobodiffError, UsageError
from robodiff.evaluation.runs import read_curves, read_run
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.report import predictions
from robodiff.report.comparison import write_comparison
from robodiff.report.figures import MOST_PANELS, curves
from robodiff.report.predictions import draw_predictions
from robodiff.report.recording import write_view
from robodiff.report.recording_figures import histogram

Run = Callable[..., tuple[int, str, str]]
FIRST_VERSION = Path(__file__).parents[1] / "fixtures" / "run_0_1_0"
NOT_DRAWN = "They are not drawn over the scene"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demonstrations and the run of the first version on them, evaluated on two short episodes."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(FIRST_VERSION, folder / "first", ignore=shutil.ignore_patterns("eval", "*.npz", "resumed*"))
    (folder / "first" / "demos.zarr").rename(folder / "demos.zarr")
    config = folder / "first" / "config.yaml"
    config.write_text(config.read_text().replace("demos.zarr", str(folder / "demos.zarr")))
    with pytest.MonkeyPatch.context() as patch:
        use_env(patch, dataclasses.replace(SPEC, make=lambda keys: PushTEnv(keys, max_steps=30)))
        main(["eval", str(folder / "first"), "--env", "pusht", "--episodes", "2", "--num_envs", "2"])
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it, beside a copy of its demonstrations."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "first" / "config.yaml"
    config.write_text(config.read_text().replace(str(made), str(tmp_path)))
    return tmp_path / "first"


@pytest.fixture
def bare(run: Path) -> Path:
    """The same without its policy and its demonstrations, of which reports are made in no time."""
    shutil.rmtree(run / "policy")
    shutil.rmtree(run.parent / "demos.zarr")
    return run


def test_report_of_a_run(run: Path, robodiff: Run, tmp_path: Path) -> None:
    page = (run / "report.html").read_text()
    tags = Tags(page)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert all(link.startswith(("data:", "#")) for link in tags.loads)  # opens without a network
    assert {link[1:] for link in tags.loads if link.startswith("#")} <= set(tags.ids)
    metrics = json.loads(next(run.glob("eval/*/metrics.json")).read_text())
    assert f"{100 * metrics['success_rate']:.0f}&#8239;% success" in page or "0&#8239;% success" in page
    assert page.count("<video ") == 2
    assert page.count("<svg ") > 20
    assert "(3 optimizer steps) on" in page
    assert "frames at 10 Hz" in page
    assert NOT_DRAWN not in page
    assert "After step 10 of 10" in page
    assert "n_action_steps: 8" in page
    assert len(re.sub(r'"data:video[^"]*"', "", page)) < 5_000_000

    shutil.rmtree(tmp_path / "demos.zarr")  # as when only the run was copied
    code, out, err = robodiff("report", run)
    assert (code, out.strip()) == (0, f"written: {run / 'report.html'}"), err
    page = (run / "report.html").read_text()
    assert "They cannot be read any more" in page
    assert page.count("<video ") == 2


def test_the_step_that_the_policy_was_kept_at(bare: Path, robodiff: Run) -> None:
    metrics = bare / "metrics.csv"
    columns = "epoch,global_step,val/action_mse,rollout/mean_max_reward\n"
    for rows, sentence in (
        ("0,10,5,\n1,20,3.25,\n2,30,3.25,\n", "kept at step 20, the best by val/action_mse (3.25)."),
        ("0,10,5,0.5\n1,20,3,0.75\n2,30,2,0.25\n", "kept at step 20, the best by rollout/mean_max_reward (0.75)."),
        ("", "The policy is that of the last step."),
    ):
        metrics.write_text(columns + rows)
        assert robodiff("report", bare)[0] == 0
        assert sentence in (bare / "report.html").read_text()


def test_whose_observations_the_policy_is_shown_at(run: Path, robodiff: Run) -> None:
    """No more is claimed than is so: episodes that were held out, or those that it was trained on."""
    config = run / "config.yaml"
    held_out, trained_on = "episodes that were held out from training", "for none were held out"
    for val_split, claim, other in (("0.0", trained_on, held_out), ("0.2", held_out, trained_on)):
        config.write_text(re.sub(r"val_split: [\d.]+", f"val_split: {val_split}", config.read_text()))
        assert robodiff("report", run)[0] == 0
        page = (run / "report.html").read_text()
        assert claim in page
        assert other not in page


@pytest.mark.parametrize("env", ["meet", "gymnasium:Absent-v0"])
def test_an_environment_that_is_not_here(run: Path, env: str) -> None:
    episodes = ZarrConfig(path=str(run.parent / "demos.zarr")).read()
    drawn = draw_predictions(run / "policy", episodes, [0], env, samples=1)
    assert drawn.note.startswith(f"{NOT_DRAWN}, for {env} cannot be used here: ")
    assert all("step of the chunk" in panel for panel in drawn.chunks)
    assert draw_predictions(run / "policy", episodes, [0], None, samples=1).note == ""


@pytest.mark.slow
def test_no_simulator_is_needed(run: Path) -> None:
    script = "import sys; sys.modules |= dict.fromkeys(['gymnasium', 'gym_pusht', 'pygame']); " \
             "from robodiff.cli.main import main; main(sys.argv[1:])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script, "report", str(run)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    page = (run / "report.html").read_text()
    assert f"{NOT_DRAWN}, for pusht cannot be used here" in page
    assert "step of the chunk" in page


def test_what_a_policy_and_an_environment_measure_themselves(bare: Path, robodiff: Run) -> None:
    (bare / "metrics.csv").write_text("epoch,global_step,train/kl,val/kl,seconds\n0,1,0.5,0.25,3\n")
    file = next(bare.glob("eval/*/metrics.json"))
    metrics = json.loads(file.read_text())
    file.write_text(json.dumps({**metrics, "extra": {"distance": 0.125, "force": 2}}))
    assert robodiff("report", bare)[0] == 0
    page = (bare / "report.html").read_text()
    assert "distance 0.125, force 2." in page
    assert re.findall('aria-label="(kl|seconds)"', page) == ["kl", "seconds"]
    many = {f"train/part_{number}": ([1.0], [2.0]) for number in range(99)}
    assert len(curves({"run": {**many, "train/loss": ([1.0], [2.0])}})) == MOST_PANELS + 1


PAGES = pytest.mark.kind("a page that hides, cuts or misnames what it shows")


@PAGES
@pytest.mark.parametrize("count", [1, 2, 100])
def test_videos_come_before_the_seeds_that_failed(bare: Path, robodiff: Run, count: int) -> None:
    file = next(bare.glob("eval/*/metrics.json"))
    metrics = json.loads(file.read_text())
    failed = {**metrics["episodes"][0], "success": False, "max_reward": 0.5}
    episodes = [{**failed, "seed": 100000 + number} for number in range(count)]
    assert metrics["evaluated"]["success_reward"] == 1
    file.write_text(json.dumps({**metrics, "success_rate": 0, "success_rate_ci95": [0, 0.5], "episodes": episodes}))
    assert robodiff("report", bare)[0] == 0
    page = (bare / "report.html").read_text()
    video = page.index("<video ")
    assert all(page.index(f'<span class="bad">{episode["seed"]}</span>') > video for episode in episodes)
    assert f"Seeds of the {count} failure{'' if count == 1 else 's'}, the best first" in page
    assert f"0 of {count} episode{'' if count == 1 else 's'} of pusht" in page
    assert f"on {'seed 100000' if count == 1 else f'seeds 100000 to {99999 + count}'}." in page
    assert "reward of a success: 1" in page
    assert not re.search(r"\b1 (episodes|steps|failures|seeds)\b", page)


@PAGES
def test_what_is_shown_as_recorded_an_expert_did(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = ZarrConfig(path=str(run.parent / "demos.zarr")).read()
    acted = np.zeros((episodes.episode_ends[-1], 1), np.float32)
    acted[3] = 1
    taken_over = dataclasses.replace(episodes, arrays={**episodes.arrays, INTERVENTION: acted})
    monkeypatch.setattr(predictions, "_MOST_DIMENSIONS", 1)
    (panel,) = draw_predictions(run / "policy", taken_over, [0], None, samples=1).chunks
    assert "Frame 3 of episode 0" in panel
    assert draw_predictions(run / "policy", taken_over, [1], None, samples=1).chunks  # without an expert, as it is


@PAGES
@pytest.mark.parametrize("env", [None, "meet"])
def test_chunks_of_the_dimensions_that_move_most(run: Path, monkeypatch: pytest.MonkeyPatch, env: str | None) -> None:
    """With the names of the recording or, where it has none, of the environment."""
    episodes = ZarrConfig(path=str(run.parent / "demos.zarr")).read()
    action = episodes.arrays["action"].copy()
    action[:, 0] = 256 + 1e-3 * action[:, 0]  # y moves most
    features = {**episodes.features, "action": dataclasses.replace(episodes.features["action"], names=None)}
    recorded = dataclasses.replace(episodes, arrays={**episodes.arrays, "action": action}, features=features)
    monkeypatch.setattr(predictions, "_MOST_DIMENSIONS", 1)
    monkeypatch.setattr(predictions, "_MOST_DENOISED", 1)
    if env:
        use_env(monkeypatch, dataclasses.replace(SPEC, name=env, scene=None))
    drawn = draw_predictions(run / "policy", recorded, [0], env, samples=1)
    name = "y" if env else "action 1"
    assert len(drawn.chunks) == 6
    assert all(f": {name} (px)</p>" in panel for panel in (*drawn.chunks, *drawn.denoising))


@PAGES
def test_a_scene_in_which_actions_are_no_places_stands_beside_their_curves(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(lambda _: np.zeros((4, 4, 3), np.uint8))
    use_env(monkeypatch, dataclasses.replace(SPEC, name="meet", scene=scene))
    episodes = ZarrConfig(path=str(run.parent / "demos.zarr")).read()
    drawn = draw_predictions(run / "policy", episodes, [0], "meet", samples=1)
    assert ["<image " in panel for panel in drawn.chunks] == [True, False, False] * 6
    assert all("step of the chunk" in panel for panel in drawn.chunks if "<image " not in panel)
    assert drawn.denoising
    assert not any("<image " in panel for panel in drawn.denoising)


def test_comparison(bare: Path, robodiff: Run, tmp_path: Path) -> None:
    run, second = bare, tmp_path / "second"
    shutil.copytree(run, second)
    config = (second / "config.yaml").read_text()
    (second / "config.yaml").write_text(config.replace("n_action_steps: 8", "n_action_steps: 4"))
    shutil.copytree(run, tmp_path / "third")
    shutil.rmtree(tmp_path / "third" / "eval")
    (run / "metrics.csv").write_text("epoch,global_step,rollout/mean_max_reward\n0,1,0.5\n")
    code, out, err = robodiff("report", run, second, tmp_path / "third", "--out", tmp_path / "page.html")
    assert (code, out.strip()) == (0, f"written: {tmp_path / 'page.html'}"), err
    page = (tmp_path / "page.html").read_text()
    assert Tags(page).open == []
    assert "No difference in success between second and first" in page
    assert "+0.00 (" in page
    assert page.count("reward of a success: 1") == 3  # in the rewards of both, and in their curves
    assert f"not evaluated: robodiff eval {tmp_path / 'third'}" in page
    values = re.search(r"<tr><td[^>]*>model.init_args.n_action_steps</td>(.*)</tr>", page)
    assert values
    assert re.findall(r'data-label="(\w+)">(\d)<', values[1]) == [
        ("first", "8"),
        ("second", "4"),
        ("third", "8"),
    ]
    code, _, err = robodiff("report", run, second, "--out", tmp_path)
    assert (code, "is a folder; name the page to write, such as" in err) == (2, True)
    with pytest.raises(UsageError, match="given twice"):
        write_comparison([run, run], tmp_path / "page.html")


def test_an_evaluation_of_an_earlier_policy_is_not_the_answer(run: Path, robodiff: Run, tmp_path: Path) -> None:
    save_policy(load_policy(run / "policy", steps=3), run / "policy")
    shutil.rmtree(tmp_path / "demos.zarr")
    assert robodiff("report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert "not evaluated" in page
    assert "The evaluations below are of an earlier or another policy." in page


def test_constants_and_names_that_mean_something_elsewhere() -> None:
    for value in (1.7e18, 0.0, -3.0):
        assert histogram(np.full(9, value), r"left\dx a$_{$ <b>", "$").startswith("<svg ")


def test_names_are_escaped(bare: Path, robodiff: Run, tmp_path: Path) -> None:
    odd = tmp_path / "<b>&amp;"
    shutil.copytree(bare, odd)
    assert robodiff("report", odd)[0] == 0
    page = (odd / "report.html").read_text()
    assert "<b>&amp;" not in page
    assert "&lt;b&gt;&amp;amp;" in page
    assert Tags(page).open == []


@pytest.mark.usefixtures("quick")
def test_evaluation_of_a_policy_without_its_run(run: Path, robodiff: Run, tmp_path: Path) -> None:
    shutil.copytree(run / "policy", tmp_path / "policy")
    code, out, err = robodiff("eval", tmp_path / "policy", "--env", "pusht", "--episodes", 1, "--num_envs", 1,
                              "--videos", 0, "--out", tmp_path / "measured")  # fmt: skip
    assert code == 0, err
    assert f"report: {tmp_path / 'measured' / 'report.html'}" in out
    assert "1 episode of pusht" in (tmp_path / "measured" / "report.html").read_text()


def test_what_is_no_run(run: Path, robodiff: Run, tmp_path: Path) -> None:
    for arguments, code, message in (
        ((tmp_path,), 2, "is not the folder of a run (it has no config.yaml)"),
        ((run, tmp_path), 2, "is not the folder of a run (it has no config.yaml)"),
        ((), 2, "RUNS is missing"),
    ):
        got, _, err = robodiff("report", *arguments)
        assert (got, "Traceback" in err) == (code, False), err
        assert message in err
    next(run.glob("eval/*/metrics.json")).write_text("{}")
    with pytest.raises(RobodiffError, match=r"metrics\.json: .*evaluate again"):
        read_run(run)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", b"epoch,step,val/loss\n0,1,0.5\n", "metrics.csv: has no column 'global_step'"),
        ("run.json", b"{}", "missing required field minutes"),
        ("run.json", b"[" * 10**5, "run.json: cannot be read as JSON: "),
        ("config.yaml", b"model: \xff\n", "config.yaml: cannot be read as YAML"),
        ("config.yaml", b"model: {class_path: Theirs}\nplugins: [theirs.py]\n", "theirs.py"),
    ],
)
def test_files_of_a_run_that_were_damaged(
    run: Path, robodiff: Run, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    monkeypatch.setattr(registry._TABLE, "mentioned", [])
    (run / name).write_bytes(content)
    code, _, err = robodiff("report", run)
    assert (code != 0, len(err.splitlines()) <= 2) == (True, True)
    assert message in err


def test_a_configuration_that_was_damaged_is_not_compared(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "second")
    (tmp_path / "second" / "config.yaml").write_bytes(b"model: [\xff")
    with pytest.raises(RobodiffError, match=r"second/config\.yaml: cannot be read as YAML"):
        write_comparison([run, tmp_path / "second"], tmp_path / "page.html")


def test_half_a_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,global_step,train/loss,val/loss\n0,1,0.5,\n0,2,,0.25\n0,3,nan,x\n0,4,0.1")
    assert read_curves(path) == {"train/loss": ([1.0], [0.5]), "val/loss": ([2.0], [0.25])}


CUT = """[...document.querySelectorAll("svg")].flatMap(svg => {
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect()).filter(text =>
        text.left < box.left - 1 || text.right > box.right + 1 ||
        text.top < box.top - 1 || text.bottom > box.bottom + 1);
}).length + Number(document.documentElement.scrollWidth > innerWidth)"""
"""In a browser: how many labels of figures are cut, and whether the page is wider than the window."""


@PAGES
def test_on_a_phone(tmp_path: Path, browse: Browse) -> None:
    """Also with names that have no place to break, and values that need many digits."""
    names, random = tuple(f"{number}{'n' * 300}" for number in range(26)), np.random.default_rng(0)
    values = (1e6 + np.cumsum(random.normal(size=(40, 26)), axis=0)).astype(np.float32)
    arrays = {"observation.state": values, "action": values}
    features = {key: Feature.of(array, "u" * 300, names) for key, array in arrays.items()}
    episodes = Episodes("s" * 300, arrays, np.array([20, 40]), 10.0, features, {"task": ["t" * 300, "u" * 300]})
    page = write_view(episodes, [Finding("note", "x", "m" * 300, "a" * 300)], tmp_path / "view.html")
    assert browse(page, width=390).evaluate(CUT) == 0


def test_in_a_browser(run: Path, browse: Browse) -> None:
    """No error on the console, every video plays, and nothing is cut."""
    page = browse(run / "report.html")
    played = """async () => {
        const videos = [...document.querySelectorAll("video")];
        await Promise.all(videos.map((video) => video.play()));
        return videos.filter((video) => video.videoWidth > 0).length;
    }"""
    assert page.evaluate(played) == 2
    assert page.evaluate(CUT) == 0
