"""Hold: reuse the last computed residual as it is."""

from __future__ import annotations

from collections.abc import Sequence


def hold(times: Sequence[float], at: float, order: int) -> tuple[float, ...]:
    """Weights of plain reuse: all on the newest residual."""
    return (1.0,)
