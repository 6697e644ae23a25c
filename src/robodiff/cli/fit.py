"""``robodiff fit``: train a policy."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from robodiff import registry
from robodiff.cli.configuration import KINDS, LENGTHS, Draft, find_class, find_config, presets, read_config, to_yaml
from robodiff.cli.options import Options, description, help_text, options_help, read_options
from robodiff.documents import Above, AtMost, FilePath
from robodiff.errors import UsageError
from robodiff.evaluation.runs import config_file
from robodiff.training.config import FitConfig, RolloutConfig, TrainerConfig, max_time


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Train a policy, and keep everything of the run in one folder.

    Any option of the configuration can be given here, too: those of the policy as --model.<option>, listed by
    --model.help CLASS, those of the data as --data.<option>, listed by --data.help CLASS, and those below. A
    --trainer.max_* replaces every max_* of the configuration.

    Examples:
      robodiff fit --config pusht_keypoints
      robodiff fit --config generic --data my_recording --minutes 60
      robodiff fit --config pusht_keypoints --model.horizon 32 --trainer.max_steps 20000
      robodiff fit --resume runs/pusht_keypoints-20260131-120000
    """

    config: FilePath | None = None
    """A preset, or a file."""
    run: FilePath | None = None
    """Folder of the run; runs/<config>-<date>-<time> when not given."""
    resume: FilePath | None = None
    """Go on with this run; only --trainer.max_* may be changed."""
    accept_changed_data: bool = False
    """With --resume: go on although the recording has changed since; what was held out stays so while it is there."""
    minutes: Annotated[float, Above(0), AtMost(525_600)] | None = None
    """Train for about so long; short for --trainer.max_time."""
    model: str | None = None
    """Class of the policy, in place of the configuration's."""
    data: str | None = None
    """The recording, whatever its format: a path, builtin:pusht, or a LeRobot data set of the Hugging Face hub. Or the
    class of the data, where --data.<option> says the rest."""
    seed_everything: int | None = None
    """Seed of everything random in training; the configuration's, or 42, when not given."""
    plugin: str | None = None
    """A Python file or module with models, data formats, environments or samplers of your own; may be repeated."""
    print_config: Literal["whole", "skip_null", "comments"] | None = None
    """Print the configuration and stop; =comments adds every option's help, =skip_null leaves out what is null."""

    further = "."
    alone = {"print_config": "whole"}  # noqa: RUF012


def run(arguments: list[str]) -> None:
    """Parse, train, and say where the policy is."""
    if "-h" in arguments or "--help" in arguments:
        print(_help())
        return
    overrides: dict[str, str | None] = {}
    own = read_options(FitOptions, "fit", arguments, overrides)
    for part in KINDS:
        if f"{part}.help" in overrides:
            print(_class_help(part, overrides[f"{part}.help"]))
            return
    draft = _resumed(own, overrides) if own.resume is not None else _begun(own)
    minutes = {} if own.minutes is None else {"trainer.max_time": max_time(own.minutes)}
    if any(f"trainer.{name}" in overrides for name in LENGTHS) or minutes:
        draft.clear_length()
    draft.given |= {option.replace(".init_args", "") for option in overrides}
    for option, text in {**overrides, **minutes}.items():
        draft.override(option, text)
    if own.accept_changed_data and own.resume is None:
        raise UsageError("--accept_changed_data is for a run that goes on; give --resume RUN, or leave it out")
    if own.seed_everything is not None:
        draft.top["seed_everything"] = own.seed_everything
    config = draft.build()
    if own.print_config is not None:
        print(to_yaml(config, own.print_config), end="")
        return
    begun = f"{Path(own.config or 'fit').stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(own.resume or own.run or f"runs/{begun}")
    config = replace(config, plugins=registry.plugin_words(), distributions=registry.distributions())
    train(config, folder, own.resume is not None, bool(overrides or minutes), own.accept_changed_data)


def train(
    config: FitConfig, folder: Path, resume: bool = False, new_length: bool = False, accept_changed_data: bool = False
) -> None:
    """Train; Ctrl-C ends the process with how to go on."""
    from rich.console import Console

    from robodiff.cli.report import report
    from robodiff.progress import say
    from robodiff.training.callbacks import Interrupted
    from robodiff.training.fit import fit

    console = Console()
    try:
        new_length &= resume
        primary = fit(config, folder, to_yaml(config), resume, new_length, accept_changed_data, console)
    except Interrupted as stop:
        stopped = "stopped and saved" if stop.saved else "stopped; what was saved before stays"
        say(console, f"{stopped}; go on with: robodiff fit --resume {folder}")
        raise SystemExit(128 + stop.number) from None
    if primary:
        say(console, f"policy: {folder / 'policy'}\nwriting the report")
        say(console, f"report: {report(folder)}")


def _begun(own: FitOptions) -> Draft:
    draft = Draft.of({}) if own.config is None else find_config(own.config)
    for part in KINDS:
        draft.set_part(part, getattr(own, part))
    return draft


def _resumed(own: FitOptions, overrides: dict[str, str | None]) -> Draft:
    """Return the draft that repeats a run; the only options allowed are those that make it longer or shorter."""
    changed = [name for name in ("config", "run", "model", "data", "seed_everything") if getattr(own, name) is not None]
    changed += [option for option in overrides if option.removeprefix("trainer.") not in LENGTHS]
    if changed:
        raise UsageError(f"--resume repeats the run as it was; only --trainer.max_* may change, found --{changed[0]}")
    return read_config(config_file(Path(str(own.resume))))


def _help() -> str:
    classes = [f"Classes of {part}: {', '.join(registry.names(kind))}." for part, kind in KINDS.items()]
    lines = [help_text(FitOptions, "fit"), "", f"Presets: {', '.join(presets())}.", *classes]
    for part, kind in (("trainer", TrainerConfig), ("rollout", RolloutConfig)):
        lines += ["", *description(kind)[:1], *options_help(kind, part)]
    return "\n".join(lines)


def _class_help(part: str, name: str | None) -> str:
    if name is None:
        return "\n".join(f"robodiff fit --{part}.help {each}" for each in registry.names(KINDS[part]))
    kind = find_class(part, name)
    return "\n".join([*description(kind), "", f"Options of --{part} {kind.__name__}:", *options_help(kind, part)])
