"""A sampler of one's own: the midpoint method for flow matching, of second order with two evaluations a step.

robodiff eval RUN --env pusht --plugin examples/extending/midpoint_sampler.py --sampler Midpoint --steps 4
"""

from collections.abc import Sequence
from itertools import pairwise

from robodiff import register
from robodiff.diffusion.samplers import FLOW, Level, Row, Sampler


def midpoint(levels: Sequence[Level]) -> list[Row]:
    """Step half-way along the velocity v1 = (x - x0_1) / s, and from x all the way along that which is there.

    A half step from s to m = (s + s') / 2 leaves x_m = x + (m - s) v1, so that x = x_m - (m - s) v1, and x_m lies on the
    line from x to x0_1: v1 = (x_m - x0_1) / m. With v2 = (x_m - x0_2) / m the whole step is

        x' = x + h v2 = x_m - (m - s) v1 + h v2,    h = s' - s = 2 (m - s)
           = (1 + h / (2 m)) x_m - h / m x0_2 + h / (2 m) x0_1
    """
    rows = []
    for now, then in pairwise(levels):
        middle, h = (now.sigma + then.sigma) / 2, then.sigma - now.sigma
        scale = now.timestep / now.sigma  # of the time that the network sees
        ratio = middle / now.sigma
        rows.append(Row(now.timestep, a=ratio, b=1 - ratio))
        rows.append(Row(middle * scale, a=1 + h / (2 * middle), b=-h / middle, e=h / (2 * middle)))
    return rows


register(Sampler("Midpoint", midpoint, FLOW, "uniform"))
