"""Newton: polynomial extrapolation through the last order + 1 computed residuals.

Source: Newton's divided differences, the exact variant of the finite-difference forecast of TaylorSeer
(arXiv:2503.06923); on f = x**2 sampled at 0, 2, 4 it gives f(5) = 25, TaylorSeer's recurrence 23.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod


def newton(times: Sequence[float], at: float, order: int) -> tuple[float, ...]:
    """Weights of the interpolating polynomial, in Lagrange's form; lower order while history is short."""
    nodes = times[: order + 1]
    return tuple(
        prod((at - other) / (node - other) for j, other in enumerate(nodes) if j != i)
        for i, node in enumerate(nodes)
    )
