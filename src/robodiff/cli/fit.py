"""``robodiff fit``: train a policy."""

import dataclasses
import time
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from jsonargparse import ActionConfigFile, Namespace  # pyright: ignore[reportPrivateImportUsage]

from robodiff.cli.configuration import CLASSES, PARTS, check_options, read
from robodiff.cli.parser import Parser
from robodiff.data.config import DataModule
from robodiff.errors import UsageError, nearest
from robodiff.policies.config import PolicyConfig
from robodiff.training.config import RolloutConfig, TrainerConfig, max_time

DESCRIPTION = """Train a policy, and keep everything of the run in one folder.

Any option of the configuration can be given on the command line, too. --model.help DiffusionConfig (or
DiffusionTransformerConfig) lists those of the policy, --data.help ZarrDataModule (LeRobotDataModule,
RobomimicDataModule) those of the data. A --trainer.max_* there replaces every max_* of the configuration.

Examples:
  robodiff fit --config pusht_keypoints
  robodiff fit --config pusht_keypoints --data.path my.zarr --model.horizon 32 --trainer.max_steps 20000
  robodiff fit --config pusht_keypoints --data LeRobotDataModule --data.root my_dataset \\
      --model.observation_keys '[observation.state]' --rollout.env null
  robodiff fit --resume runs/pusht_keypoints-20260131-120000"""


def run(arguments: list[str]) -> None:
    """Parse, train, and say where the policy is."""
    parser = _parser()
    typed = arguments = _split(arguments)
    resumed = _value(arguments, "--resume")
    if resumed is not None:
        arguments = _resume(arguments, resumed)
    name = _value(arguments, "--config")
    check_options(arguments)
    config = _parse(parser, _with_texts(_with_length(arguments)))
    for option in ("resume", "minutes"):
        if config[option] is not None and f"--{option}" not in typed:
            raise UsageError(f"{option} is given on the command line, not in a configuration; the length of a run is "
                             "trainer.max_time there")  # fmt: skip
    folder = Path(resumed or config.run or f"runs/{Path(name or 'fit').stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    train(parser, config, folder, resume=resumed is not None, new_length=len(arguments) > 2)


def train(parser: Parser, config: Any, folder: Path, resume: bool = False, new_length: bool = False) -> None:
    """Train what was parsed; Ctrl-C ends the process with how to go on."""
    from rich.console import Console

    from robodiff.cli.report import report
    from robodiff.progress import say
    from robodiff.training.fit import FitConfig, Interrupted, fit

    for key in ("config", "run", "resume", "minutes"):
        config.pop(key, None)
    objects = parser.instantiate(config)
    whole = FitConfig(objects.model, objects.data, objects.trainer, objects.rollout, objects.seed_everything)
    console = Console()
    try:
        primary = fit(whole, folder, parser.dump(config, skip_none=False), resume, resume and new_length, console)
    except Interrupted as stop:
        say(console, f"stopped and saved; go on with: robodiff fit --resume {folder}")
        raise SystemExit(128 + stop.number) from None
    if primary:
        say(console, f"policy: {folder / 'policy'}\nreport: {report(folder)}")


def configuration(run: Path) -> Any:
    """What a run was configured with: ``model``, ``data``, ``trainer`` and ``rollout`` as objects.

    Raises:
        UsageError: its config.yaml is no configuration.
    """
    parser, file = _parser(), run / "config.yaml"
    text = read(file)
    try:
        return parser.instantiate(_parse(parser, [f"--config={text}"]))
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def presets() -> list[str]:
    """The configurations inside the package."""
    return sorted(f.name.removesuffix(".yaml") for f in files("robodiff.configs").iterdir() if f.name.endswith(".yaml"))


def _parser() -> Parser:
    parser = Parser("fit", "--config NAME_OR_FILE [--run FOLDER] [options]", DESCRIPTION)
    parser.add_argument("--config", action=ActionConfigFile, help=f"{', '.join(presets())}, or a file.")
    parser.add_argument("--run", type=str | None, help="Folder of the run; runs/<config>-<date>-<time> when not given.")
    parser.add_argument("--resume", type=str | None, help="Go on with this run; only --trainer.max_* may be changed.")
    parser.add_argument("--minutes", type=float | None, help="Train for about so long; short for --trainer.max_time.")
    parser.add_argument("--model", type=PolicyConfig, help="The policy.")
    parser.add_argument("--data", type=DataModule, help="The demonstrations.")
    parser.add_argument("--trainer", type=TrainerConfig, default=TrainerConfig())
    parser.add_argument("--rollout", type=RolloutConfig, default=RolloutConfig())
    parser.add_argument("--seed_everything", type=int, default=42, help="Seed of everything random in training.")
    return parser


def _parse(parser: Parser, arguments: list[str]) -> Any:
    config = parser.parse_args(arguments)
    _check_parts(config)
    return config


def _check_parts(config: Any) -> None:
    """Refuse what jsonargparse lets through: a part that is missing or no mapping, null where a value must be."""
    for part, kind in PARTS.items():
        values = config[part]
        if values is None and part in CLASSES:
            raise UsageError(f"nothing says what {part} is; a --config does: {', '.join(presets())}, or a file")
        if not isinstance(values, Namespace):
            raise UsageError(f"{part}: expected options, each with its name; found {str(values)[:80]}")
        if "dict_kwargs" in values:  # where jsonargparse puts what a class does not accept
            raise UsageError(f"unknown option {part}.dict_kwargs")
        name = str(values.get("class_path", "")).rpartition(".")[2]
        kind = next((own for own in kind.__subclasses__() if own.__name__ == name), kind)
        values = values.get("init_args", values)
        for field in dataclasses.fields(kind):
            if values.get(field.name, field.default) is None and not _takes_null(field.type):
                raise UsageError(f"{part}.{field.name}: expected a value; found null")


def _takes_null(kind: Any) -> bool:
    return NoneType in get_args(kind) or None in get_args(kind)


def _find_config(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    if name in presets():
        return Path(str(files("robodiff.configs") / f"{name}.yaml"))
    raise UsageError(f"--config {name}: no such file, and no preset; there is {', '.join(presets())}."
                     f"{nearest(name, presets())}")  # fmt: skip


def _resume(arguments: list[str], run: str) -> list[str]:
    """The arguments that repeat a run; the only others allowed are those that make it longer or shorter."""
    place = arguments.index("--resume")
    rest = arguments[:place] + arguments[place + 2 :]
    for option in rest:
        if option.startswith("--") and not option.startswith("--trainer.max_") and option != "--minutes":
            raise UsageError(f"--resume goes on with the run as it was begun; of its options only --trainer.max_* "
                             f"may change, found {option}")  # fmt: skip
    if Path(run).is_file():
        raise UsageError(f"--resume {run}: is a file; give the folder of the run that is to go on, or begin a new one "
                         f"with --config {run}")  # fmt: skip
    if not (Path(run) / "config.yaml").is_file():
        raise UsageError(f"--resume {run}: no run there (it has no config.yaml)")
    return ["--config", str(Path(run) / "config.yaml"), *rest]


def _with_length(arguments: list[str]) -> list[str]:
    """A length on the command line replaces that of the configuration; --minutes is a --trainer.max_time."""
    minutes = _value(arguments, "--minutes")
    if minutes is not None:
        place = arguments.index("--minutes")
        try:
            length = max_time(float(minutes))
        except ValueError:
            raise UsageError(f"--minutes must be a number; found {minutes!r}") from None
        arguments = [*arguments[:place], "--trainer.max_time", length, *arguments[place + 2 :]]
    if not any(a.startswith("--trainer.max_") for a in arguments):
        return arguments
    after_config = arguments.index("--config") + 2 if "--config" in arguments else 0
    cleared = [x for name in ("epochs", "steps", "time") for x in (f"--trainer.max_{name}", "null")]
    return [*arguments[:after_config], *cleared, *arguments[after_config:]]


def _with_texts(arguments: list[str]) -> list[str]:
    """--config FILE as --config=TEXT: what was checked is what is parsed."""
    words, rest = [], arguments
    while rest:
        option, *rest = rest
        if option == "--config":
            option, rest = f"--config={read(_find_config(_value([option, *rest], option) or ''))}", rest[1:]
        words.append(option)
    return words


def _split(arguments: list[str]) -> list[str]:
    """--option=value as two arguments; only the flags of --print_config are written with it alone."""
    return [
        part
        for a in arguments
        for part in (a.split("=", 1) if a.startswith("--") and not a.startswith("--print_config=") else [a])
    ]


def _value(arguments: list[str], option: str) -> str | None:
    if option not in arguments:
        return None
    place = arguments.index(option) + 1
    if place == len(arguments) or arguments[place].startswith("--"):
        raise UsageError(f"{option} needs a value")
    return arguments[place]
