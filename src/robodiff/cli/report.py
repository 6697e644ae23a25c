"""``robodiff report``: one page about a run, or one that compares several."""

from pathlib import Path

from robodiff.cli.parser import Parser

DESCRIPTION = """Make report.html of a run again, or one page that compares several runs, the first being the baseline.

Examples:
  robodiff report runs/first
  robodiff report runs/first runs/second runs/third --out comparison.html"""


def run(arguments: list[str]) -> None:
    """Parse, write, say where."""
    parser = Parser("report", "RUN [RUN ...] [--out FILE]", DESCRIPTION)
    parser.add_argument("runs", type=str, nargs="+", help="Folders of runs.")
    parser.add_argument("--out", type=str, default="comparison.html", help="The page that compares several runs.")
    options = parser.parse_args(arguments)
    if len(options.runs) == 1:
        print(f"written: {report(Path(options.runs[0]))}")
        return
    from robodiff.report.run import write_comparison

    print(f"written: {write_comparison([Path(run) for run in options.runs], Path(options.out))}")


def report(folder: Path) -> Path:
    """Write a run's ``report.html``, with its demonstrations if they can still be read."""
    from robodiff.cli.fit import configuration
    from robodiff.errors import RobodiffError
    from robodiff.evaluation.runs import read_run
    from robodiff.report.run import write_report

    found = read_run(folder)
    config = configuration(folder)
    try:
        episodes = config.data.read(config.model.observation_keys)
        trained_on, held_out = (places.tolist() for places in config.data.split(episodes))
    except RobodiffError as error:
        return write_report(found, no_data=f"They cannot be read any more: {error}")
    return write_report(found, episodes, trained_on, held_out, env=config.rollout.env, window=config.model.window)


def report_evaluation(out: Path) -> Path:
    """Write the report of the run that an evaluation lies in or, where it lies in none, one of itself alone."""
    from robodiff.evaluation.runs import Run
    from robodiff.report.run import write_report

    run = out.resolve().parent.parent
    if out.resolve().parent.name == "eval" and (run / "config.yaml").is_file():
        return report(run)
    return write_report(Run.of_evaluation(out), no_data="Of a policy without its run they are not known.")
