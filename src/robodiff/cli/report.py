"""``robodiff report``: one page about a run, a learning curve or a trial, or one that compares several runs."""

from dataclasses import dataclass
from pathlib import Path

from robodiff.cli.configuration import read_run_config
from robodiff.cli.options import Options, read_options
from robodiff.documents import FilePath
from robodiff.errors import UsageError
from robodiff.evaluation.learning_curve import LearningCurve
from robodiff.evaluation.members import ALONE
from robodiff.evaluation.results import RunFacts
from robodiff.evaluation.runs import CONFIG_FILE, agent_runs, curve_runs, is_measured, seed_runs
from robodiff.evaluation.trial import Trial
from robodiff.text import counted


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Make report.html of a run again, or one page that compares several runs, the first being the baseline.

    Examples:
      robodiff report runs/first
      robodiff report runs/first --out first.html
      robodiff report runs/team
      robodiff report runs/curve
      robodiff report trial
      robodiff report runs/first runs/second runs/third --out comparison.html
    """

    positional = ("runs",)

    runs: list[FilePath]
    """Folders of runs, or of the runs of a team's agents; alone, also that of several training seeds, of a learning
    curve, or of a trial."""
    out: FilePath | None = None
    """The page to write: report.html in the folder of one run, comparison.html for several, when not given."""


def run(arguments: list[str]) -> None:
    """Parse, write, say where."""
    options = read_options(ReportOptions, "report", arguments)
    folders = [Path(run) for run in options.runs]
    page = None if options.out is None else Path(options.out)
    if len(folders) == 1:
        print(f"written: {report(folders[0], page)}")
        return
    from robodiff.report.comparison import write_comparison  # needs matplotlib

    print(f"written: {write_comparison(folders, page or Path('comparison.html'))}")


def report(folder: Path, page: Path | None = None) -> Path:
    """Write the page of what a folder holds, ``report.html`` in it unless another is named.

    It is a run, a team's or several seeds' runs, a learning curve, or a trial. The demonstrations of a run are on its
    page if they can still be read.

    Raises:
        UsageError: it is none of them, or a learning curve that is not done.
    """
    if (folder / LearningCurve.file).is_file():
        from robodiff.report.learning_curve import write_learning_curve_report  # needs matplotlib

        return write_learning_curve_report(folder, page)
    if begun := curve_runs(folder):
        trained = sum((run / RunFacts.file).is_file() for run in begun)
        far = f"{counted(len(begun), 'run')} begun, {trained} trained, {sum(map(is_measured, begun))} measured"
        again = f"robodiff learning-curve --out {folder}, with the options that it was begun with, goes on"
        raise UsageError(f"{folder}: is a learning curve that is not done: {far}\n{again}")
    if (folder / Trial.file).is_file():
        from robodiff.report.trial import write_trial_report  # needs matplotlib

        return write_trial_report(folder, page)
    if seed_runs(folder):
        return report_seeds(folder, page=page)
    from robodiff.report.run import write_run_report  # needs torch and matplotlib

    runs = agent_runs(folder) or {ALONE: folder}
    configs = {agent: read_run_config(run) for agent, run in runs.items()}
    parts = {agent: (config.model, config.data) for agent, config in configs.items()}
    return write_run_report(folder, parts, next(iter(configs.values())).rollout.env, page)


def report_evaluation(out: Path) -> Path:
    """Write the report of the run that an evaluation lies in or, where it lies in none, one of itself alone."""
    from robodiff.report.run import write_evaluation_report  # needs matplotlib

    return report(out.resolve().parent.parent) if is_in_run(out) else write_evaluation_report(out)


def is_in_run(out: Path) -> bool:
    """Tell whether an evaluation lies in a run, or in the folder of a team's runs."""
    run = out.resolve().parent.parent
    return out.resolve().parent.name == "eval" and ((run / CONFIG_FILE).is_file() or bool(agent_runs(run)))


def report_seeds(folder: Path, evaluation: Path | None = None, page: Path | None = None) -> Path:
    """Write the page of a run with several training seeds: ``report.html`` in its folder, or in that of an evaluation
    that was written elsewhere."""
    from robodiff.report.seeds import write_seeds_report  # needs matplotlib

    return write_seeds_report(folder, page or (evaluation or folder) / "report.html", evaluation)
