"""Every ``robodiff`` command in the README and in docs/ works, run in order with a small budget."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import zarr
from safetensors.torch import save_file
from tests.conftest import write_recording, write_robomimic_file
from tests.recordings import write_rosbag

from robodiff import registry
from robodiff.cli.main import main
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.envs.mujoco.spec import _TASKS
from robodiff.evaluation.statistics import episodes_to_decide, wilson_interval

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = {
    "fit": ["--model.down_dims", "[8,16]", "--model.n_groups", "4", "--data.train_batch_size", "4",
            "--rollout.episodes", "1", "--rollout.num_envs", "1"],
    "eval": ["--episodes", "1", "--num_envs", "1", "--videos", "1"],
    "eval offline": ["--windows", "4"],
    "collect": ["--episodes", "1", "--workers", "1"],
    "improve": ["--rounds", "1", "--episodes", "1", "--num_envs", "1", "--measure", "1"],
    "run": ["--seconds", "1", "--patience", "100"],
    "trial": ["--robot", "env:pusht", "--success", "auto", "--episodes", "1", "--seconds", "1", "--patience", "100"],
}  # fmt: skip


def commands(page: Path) -> list[str]:
    """The commands in a page's blocks of code; what follows two spaces is prose."""
    text = page.read_text().replace("\\\n", "")
    blocks = text.split("```")[1::2]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("robodiff ")]
    found = [re.sub(r"(?<=\S) {2,}(?! *--).*", "", line).strip() for line in lines]
    found = [command for command in found if not command.endswith(" --serve")]  # in tests/report/test_live.py
    served = ("robodiff serve", "robodiff play")  # in tests/cli/test_serve.py and test_play.py
    return [command for command in found if command != "robodiff demo" and not command.startswith(served)]


def small(command: str) -> list[str]:
    """The same command with less work."""
    arguments = shlex.split(command.replace("-n100", "-n1"))[1:]
    name = arguments[0]
    if name == "fit" and "--resume" in arguments:
        return [*arguments, "--trainer.max_steps", "4"]
    if "--seeds" in arguments:
        arguments[arguments.index("--seeds") + 1] = "1"
    if name == "learning-curve":
        arguments[arguments.index("--episodes") + 1] = "2,3"
        arguments += ["--eval_episodes", "1", *SMALL["fit"]]
    if "--minutes" in arguments:
        arguments[arguments.index("--minutes") + 1] = "0.01"
    elif name == "fit" and "--trainer.fast_dev_run" not in arguments and "--print_config" not in arguments:
        arguments += ["--trainer.max_steps", "2"]
    if name == "eval" and "--env" not in arguments:
        name = "eval offline"
    less = SMALL.get(name, [])
    is_unet = not {"MlpConfig", "biped_hybrid"} & {*arguments}
    return arguments + (less if name != "fit" or is_unet else less[4:])  # others have no U-Net to make small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, for pages that speak of one that was made before."""
    folder = tmp_path_factory.mktemp("finished")
    recording = write_recording(folder / "demos.zarr")
    main(["fit", "--config", "pusht_keypoints", "--data.path", str(recording), "--run", str(folder / "run"),
          "--trainer.max_steps", "2", *SMALL["fit"]])  # fmt: skip
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.stem)
def test_commands(
    page: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_TABLE", registry._Table())
    Path("examples").symlink_to(ROOT / "examples")
    random = np.random.default_rng(0)
    group = zarr.open_group("robot.zarr", mode="w")  # as docs/data.md has it
    group.create_array("data/joints", data=random.normal(size=(60, 3)).cumsum(0).astype(np.float32))
    group.create_array("data/command", data=random.normal(size=(60, 3)).cumsum(0).astype(np.float32))
    group.create_array("meta/episode_ends", data=np.array([20, 40, 60]))
    write_robomimic_file(Path("can.hdf5"))  # likewise
    writer = LeRobotWriter(Path("my_dataset"), fps=10, images="png")  # as docs/lerobot.md has it
    for _ in range(3):
        walk, images = random.normal(size=(20, 3)).cumsum(0), random.integers(0, 256, (20, 96, 96, 3), np.uint8)
        writer.append({"observation.images.top": images, "observation.state": walk, "action": walk}, task="walk")
    writer.close()
    for number in range(2):  # as docs/ros2.md has it
        write_rosbag(Path(f"bags/demo_{number}"), number)
    write_recording(Path("PATH"))
    write_recording(Path("MY_RECORDING"))
    for command in commands(page):
        arguments = small(command)
        for name in ("demos.zarr", "mine.zarr", "corrections.zarr"):
            if f" {name}" in command and f"--out {name}" not in command and not Path(name).exists():
                write_recording(Path(name))
        if "lite0.safetensors" in command:
            save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), "lite0.safetensors")
        for name in re.findall(r"runs/\w+", command):
            if f"--run {name}" not in command and not Path(name).exists():
                shutil.copytree(finished, name)
        code: object = 0
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
        assert code in (0, None), f"{command}: {capsys.readouterr().err}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_page_on_the_table_has_every_task_as_it_is() -> None:
    page = (ROOT / "docs" / "tabletop.md").read_text()
    for name, task in _TASKS.items():
        picture = f"![{name}](pictures/tabletop/{name}.png)"
        assert f"| {picture} `{name}` | {len(task.mounts)} | {task.goal} | {task.max_steps} |" in page
    picture_sizes = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "pictures" / "tabletop").glob("*.png")}
    assert picture_sizes.keys() == {*_TASKS, "cameras"}
    assert max(picture_sizes.values()) <= 40_000


def test_the_tables_of_the_page_on_evaluation() -> None:
    lines = (ROOT / "docs" / "evaluation.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d", line)]
    intervals = [row for row in rows if not row[0].endswith("%")]
    needed = [row for row in rows if row[0].endswith("%")]
    assert (len(intervals), len(needed)) == (7, 4)
    for n, *found in intervals:
        for share, text in zip((0.5, 0.8, 0.9), found, strict=True):
            low, high = wilson_interval(round(share * int(n)), int(n))
            assert text == f"{low:.2f} to {high:.2f}"
    for difference, *found in needed:
        for alone, text in zip((2, 5, 10), found, strict=True):
            first = 10 * (alone + int(difference.removesuffix(" %")))
            assert int(text) == episodes_to_decide(first, 10 * alone, 1000)
