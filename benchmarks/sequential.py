"""How many episodes a trial takes that stops as soon as it is decided, against a fixed number; how often it errs."""

import numpy as np

from benchmarks.common import keep
from robodiff.evaluation.sequential import LEVEL, log_capital
from robodiff.evaluation.statistics import episodes_to_decide, mcnemar_exact

TRIALS = 4000
POWER = 0.8
BLOCK = 20
"""Pairs after which ``robodiff eval --until_decided`` looks."""
MOST = 500


def simulate(only_first: float, only_second: float, pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """In how many pairs each policy alone had won after each pair of each trial: two of (TRIALS, pairs)."""
    uniform = np.random.default_rng(seed).random((TRIALS, pairs))
    first, second = uniform < only_first, (uniform >= only_first) & (uniform < only_first + only_second)
    return first.cumsum(1), second.cumsum(1)


def capital(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The logarithm of the capital against equality at such counts, each pair of counts computed once."""
    counts = np.arange(int(max(first.max(), second.max())) + 1)
    table = np.stack([log_capital(one, counts, 0, 0.0) for one in counts])
    return table[first, second]


def is_significant(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether McNemar's exact test tells the policies apart at such counts."""
    most = [-1]  # by the pairs that one alone won: in how many of them the other may have won
    for alone in range(1, int((first + second).max()) + 1):
        grows = mcnemar_exact(most[-1] + 1, alone - most[-1] - 1) < LEVEL
        most.append(most[-1] + grows)
    return np.minimum(first, second) <= np.array(most)[first + second]


def pairs_until(decided: np.ndarray, every: int) -> np.ndarray:
    """After how many pairs each trial stops that looks after so many, one more look than there are if it does not."""
    looks = decided[:, every - 1 :: every]
    return every * np.where(looks.any(1), looks.argmax(1) + 1, looks.shape[1] + 1)


def savings(difference: float, alone: float, seed: int) -> dict[str, str]:
    """One row: fixed and sequential numbers of pairs with which a true difference is found 4 times of 5."""
    planned = episodes_to_decide(round(1000 * (alone + difference)), round(1000 * alone), 1000)
    assert planned is not None
    first, second = simulate(alone + difference, alone, 4 * planned, seed)
    fixed = int((is_significant(first, second).mean(0) >= POWER).argmax()) + 1
    decided = capital(first, second) >= -np.log(LEVEL)
    row = {"to find": f"a difference of {100 * difference:.0f} %", "worse one alone wins": f"{100 * alone:.0f} %"}
    row["fixed number"] = f"{fixed:,}"
    for every, words in ((1, "looking after each pair"), (BLOCK, f"after every {BLOCK}")):
        ends = pairs_until(decided, every)
        most = int(np.quantile(ends, POWER, method="higher"))
        mean = np.minimum(ends, most).mean()
        row[f"mean, {words}"] = f"{mean:,.0f} ({100 * mean / fixed - 100:+.0f} %)"
        row[f"most, {words}"] = f"{most:,}"
    return row


def false_alarms(success: float, shared: float, seed: int) -> dict[str, str]:
    """One row: how often two equal policies are told apart, by looking after every block.

    Of the starts a share decides alone whether an episode succeeds; in the others the policies do as they happen to.
    """
    alone = (1 - shared) * success * (1 - success)
    first, second = simulate(alone, alone, MOST, seed)
    first, second = first[:, BLOCK - 1 :: BLOCK], second[:, BLOCK - 1 :: BLOCK]
    small, decided = is_significant(first, second), capital(first, second) >= -np.log(LEVEL)
    return {
        "two policies": f"both succeed {100 * success:.0f} times of 100",
        "of which by the start alone": f"{100 * shared:.0f} %",
        "McNemar's test once, at the end": f"{100 * small[:, -1].mean():.1f} %",
        f"McNemar's test after every {BLOCK}": f"{100 * small.any(1).mean():.1f} %",
        f"this test after every {BLOCK}": f"{100 * decided.any(1).mean():.1f} %",
    }


def main() -> None:
    cases = [(difference, alone) for difference in (0.4, 0.2, 0.1, 0.05) for alone in (0.02, 0.1)]
    keep("sequential", [savings(*case, seed) for seed, case in enumerate(cases)])
    cases = [(success, shared) for success in (0.5, 0.9) for shared in (0.0, 0.5)]
    keep("sequential_errors", [false_alarms(*case, seed) for seed, case in enumerate(cases)])


if __name__ == "__main__":
    main()
