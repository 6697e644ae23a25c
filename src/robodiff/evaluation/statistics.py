"""What may be concluded from a number of episodes."""

import math


def wilson_interval(successes: int, episodes: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The interval that covers a success probability 95 times of 100 (Wilson, 1927).

    Unlike success ± 2 standard errors it stays within [0, 1] and is honest at 0 and at 100 %.

    Args:
        successes: how many episodes succeeded.
        episodes: of how many, at least 1.
        z: quantile of the standard normal distribution; the default gives 95 %.
    """
    if not 0 <= successes <= episodes or episodes < 1:
        raise ValueError(f"expected 0 <= successes <= episodes and at least one; found {successes} of {episodes}")
    p, n = successes / episodes, episodes
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == episodes else min(1.0, centre + half)
    return low, high
