"""Configurations: typed, and no module imported or class called, wherever it is given and however it is written."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from robodiff.cli.configuration import Draft
from robodiff.errors import UsageError

Run = Callable[..., tuple[int, str, str]]
EVIL = "{class_path: planted.Thing, init_args: {a: 1}}"
LEROBOT = "model: {class_path: DiffusionConfig}\ndata: {class_path: LeRobotDataModule, init_args: {root: nowhere, %s}}"
ROBOMIMIC = "model: {class_path: DiffusionConfig}\ndata: {class_path: RobomimicDataModule, init_args: {path: x, %s}}"
VALID = LEROBOT % "num_workers: 4"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears as soon as the module ``planted`` is imported; the run's folder is the current one."""
    (tmp_path / "planted.py").write_text("open('marker', 'w')\nclass Thing:\n    def __init__(self, a=0): ...\n")
    (tmp_path / "evil.yaml").write_text(LEROBOT % f"num_workers: {EVIL}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "marker"


FILES = [
    LEROBOT % f"num_workers: {EVIL}",
    LEROBOT % f"num_workers: [{EVIL}]",
    LEROBOT % f"num_workers: '{EVIL}'",
    LEROBOT % f"image_transforms: {EVIL}",
    LEROBOT % f"delta_timestamps: {{action: {EVIL}}}",
    LEROBOT % f"unknown: {EVIL}",
    ROBOMIMIC % f"shape_meta: {EVIL}",
    ROBOMIMIC % f"shape_meta: {{obs: {{a: {EVIL}}}}}",
    ROBOMIMIC % f"shape_meta: '{{obs: {EVIL}}}'",
    ROBOMIMIC % "shape_meta.class_path: planted.Thing",
    VALID.replace("DiffusionConfig", "planted.Thing"),
    VALID.replace("LeRobotDataModule", "planted.Thing"),
    VALID.replace("{class_path: DiffusionConfig}", "planted.Thing"),
    VALID.replace("{class_path: DiffusionConfig}", f"'{EVIL}'"),
    VALID.replace("{class_path: DiffusionConfig}", f"[{EVIL}]"),
    VALID.replace("{class_path: DiffusionConfig}", f"{{class_path: {EVIL}}}"),
    VALID.replace("{class_path: DiffusionConfig}", f"{{class_path: DiffusionConfig, dict_kwargs: {EVIL}}}"),
    VALID.replace("model", "model.class_path: planted.Thing\nmodel"),
    f"{VALID}\ndata.init_args.num_workers: {EVIL}",
    f"{VALID}\ndata.init_args.num_workers+: {EVIL}",
    f"{VALID}\ntrainer: {EVIL}",
    f"{VALID}\ntrainer: evil.yaml",
    f"{VALID}\nrollout: {{env: {EVIL}}}",
    f"{VALID}\nseed_everything: {EVIL}",
    f"{VALID}\n{EVIL[1:-1].replace(', ', chr(10))}",
    f"{VALID}\nconfig: evil.yaml",
    f"{VALID}\nconfig: [evil.yaml]",
]


@pytest.mark.parametrize("content", FILES)
def test_files(robodiff: Run, tmp_path: Path, marker: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    for command in (
        ("fit", "--config", "config.yaml", "--run", "run"),
        ("fit", "--resume", ".", "--trainer.max_steps", 5),
        ("report", "."),
        ("eval", "."),
    ):
        code, _, err = robodiff(*command)
        assert (code, err.startswith(f"robodiff {command[0]}: error: "), len(err.splitlines())) == (2, True, 1), err
        assert "config.yaml: " in err
        assert not marker.exists()


OPTIONS = [
    ("--data.num_workers", EVIL),
    ("--data.init_args.num_workers", EVIL),
    ("--data.num_workers", f"--- {EVIL}"),
    ("--data.num_workers+", EVIL),
    (f"--data.num_workers={EVIL}",),
    ("--data.num_workers.class_path", "planted.Thing"),
    ("--data.image_transforms", '{"class_path": "planted.Thing"}'),
    ("--data", "RobomimicDataModule", "--data.path", "x", "--data.shape_meta", EVIL),
    ("--data", "RobomimicDataModule", "--data.path", "x", "--data.shape_meta.class_path", "planted.Thing"),
    ("--data", f"{{class_path: LeRobotDataModule, init_args: {{num_workers: {EVIL}}}}}"),
    ("--data", '{"class_path": "planted.Thing"}'),
    ("--data", "evil.yaml"),
    ("--model", "planted.Thing"),
    ("--model", EVIL),
    ("--model=planted.Thing",),
    ("--model.class_path", "planted.Thing"),
    ("--model.class_path=planted.Thing",),
    ("--model.help", "planted.Thing"),
    ("--model.help=planted.Thing",),
    ("--data.help", "planted.Thing"),
    ("--trainer", EVIL),
    ("--trainer", "evil.yaml"),
    ("--trainer.devices", EVIL),
    ("--seed_everything", EVIL),
    ("--config", "evil.yaml"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_options(robodiff: Run, tmp_path: Path, marker: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "config.yaml").write_text(VALID)
    code, _, err = robodiff("fit", "--config", "config.yaml", "--run", "run", *options)
    assert (code, err.startswith("robodiff fit: error: "), len(err.splitlines())) == (2, True, 1), err
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: null\ndata: {class_path: ZarrDataModule, init_args: {path: x}}", "nothing says what model is"),
        (b"model: {class_path: null}", "model.class_path: expected str; found null"),
        (b"model: \xe9", "cannot be read as YAML: 'utf-8' codec"),
        (b"model: [", "cannot be read as YAML: while parsing"),
        (b"seed_everything: !!bool maybe", "holds a value that is not what its tag says"),
        (b"seed_everything: " + b"[" * 30 + b"]" * 30, "line 1 is nested more than 20 deep"),
        (
            b"a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
            b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]",
            "more than 10000 values",
        ),
        (b"", "expected options, each with its name; found null"),
        (b"pusht_keypoints", "expected options, each with its name; found 'pusht_keypoints'"),
    ],
)
def test_a_run_without_a_configuration(robodiff: Run, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    for command in (("report", tmp_path), ("report", tmp_path, tmp_path / "."), ("eval", tmp_path)):
        code, _, err = robodiff(*command)
        if len(command) == 3 and code == 2 and "given twice" in err:  # the files could be read
            continue
        assert (code, len(err.splitlines())) == (2, 1), err
        assert f"{tmp_path / 'config.yaml'}: " in err
        assert message in err


def test_another_recording_takes_nothing_from_the_one_before() -> None:
    draft = Draft.of(
        {"data": {"class_path": "LeRobotConfig", "init_args": {"root": "old", "revision": "a", "val_split": 0}}}
    )
    draft.set_part("data", "lerobot/pusht")
    assert draft.values["data"] == {"repo_id": "lerobot/pusht", "val_split": 0}


def test_a_recording_and_its_options_are_one_mapping(recording: Path) -> None:
    draft = Draft.of({"data": {"class_path": "ZarrConfig", "init_args": {"path": "a", "keys": ["k"], "val_split": 0}}})
    draft.set_part("data", f"{{path: {recording}, keys: null, episodes: [1]}}")
    assert draft.values["data"] == {"path": str(recording), "keys": None, "episodes": [1], "val_split": 0}
    draft.set_part("data", {"path": str(recording), "val_split": 0.05})  # the default, but asked for
    assert draft.values["data"] == {"path": str(recording), "keys": None, "val_split": 0.05}
    for word, message in (
        ("{pth: a}", "data: expected class_path and init_args, or path and options of a recording; found"),
        (f"{{path: {recording}, episode: [1]}}", "episode is not an option. Did you mean 'episodes'?"),
        (f"{{path: {recording}, episodes: x}}", "episodes"),
    ):
        with pytest.raises(UsageError) as error:
            draft.set_part("data", word)
        assert message in str(error.value)


@pytest.mark.kind("a preset's choice of episodes applied to another recording")
@pytest.mark.parametrize(
    ("options", "episodes"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("--data", "RECORDING"), None),
        (("--data.root", "RECORDING"), None),
        (("--data.repo_id", "somebody/else"), None),
        (("--data", "ZarrConfig", "--data.path", "RECORDING"), None),
        (("--data", "{class_path: ZarrConfig, init_args: {path: RECORDING}}"), None),
        (("--data", "{class_path: ZarrConfig, init_args: {path: RECORDING, episodes: [3]}}"), [3]),
        (("--data", "{path: RECORDING}"), None),
        (("--data", "{path: RECORDING, episodes: [3]}"), [3]),
        (("--data.episodes", "[1]", "--data.root", "RECORDING"), [1]),
        (("--data.root", "RECORDING", "--data.init_args.episodes", "[1]"), [1]),
        (("--data", "RECORDING", "--data.episodes", "[2]"), [2]),
    ],
)
def test_a_choice_of_episodes_belongs_to_its_own_recording(
    robodiff: Run, recording: Path, options: tuple[str, ...], episodes: list[int] | None
) -> None:
    words = [word.replace("RECORDING", str(recording)) for word in options]
    code, printed, err = robodiff("fit", "--config", "pusht_cpu", *words, "--print_config")
    assert code == 0, err
    assert yaml.safe_load(printed)["data"]["init_args"]["episodes"] == episodes


@pytest.mark.kind("sizes that memory has no room for")
@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([8] * 14, "of length <= 13"),
        ([8] * 5000, "of length <= 13"),
        ([2**14] * 3, "parameters, which take"),
        ([2**40], "<= 16384"),
        ([], "of length >= 1"),
    ],
    ids=["14", "5000", "large", "huge", "none"],
)
def test_sizes_of_networks_are_bounded(
    robodiff: Run, recording: Path, tmp_path: Path, dims: list[int], message: str
) -> None:
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", "--data.path", recording, "--rollout.env", "null",
                            "--run", tmp_path / "run", "--model.down_dims", dims)  # fmt: skip
    assert (code, message in err, "Traceback" in err) == (2, True, False), err
    assert len(err) < 1000
    assert not (tmp_path / "run").exists()
