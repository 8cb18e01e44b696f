"""Which blocks a block refresh recomputes, from the depth-accumulated change.

Source: the rule of arXiv:2512.12604 as its authors released it; choosing its threshold by a budget is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from xslim.policy.policy import BlockReuse, KindThresholds

BISECTIONS = 40  # halves the interval to below the resolution of fp32 changes


def select_blocks(change: Sequence[float], kinds: Sequence[str], rule: BlockReuse) -> tuple[bool, ...]:
    """Return one flag a block: True is recomputed, False is replayed.

    Args:
        change: mean |h_out - h_in| of every block, in depth order.
        kinds: kind of every block, such as `double` or `single`.
        rule: the policy's block part.
    """
    ends = rule.at_ends(len(change))
    if ends is not None:
        return ends
    if rule.threshold is not None:
        return _accumulate(change, kinds, _thresholds(rule.threshold, kinds), rule.start_block)
    wanted = max(1, math.ceil((rule.budget or 1.0) * len(change) - 1e-9))
    low, high = 0.0, sum(change) + 1.0
    best = (True,) * len(change)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        flags = _accumulate(change, kinds, dict.fromkeys(kinds, middle), rule.start_block)
        if sum(flags) >= wanted:
            best, low = flags, middle
        else:
            high = middle
    return best


def _thresholds(rule: float | KindThresholds, kinds: Sequence[str]) -> dict[str, float]:
    if isinstance(rule, KindThresholds):
        by_kind = {"double": rule.double, "single": rule.single}
        # families with one kind of block only are "double" ones: image and text in the same block
        return {kind: by_kind.get(kind, rule.double) for kind in kinds}
    return dict.fromkeys(kinds, rule)


def _accumulate(
    change: Sequence[float], kinds: Sequence[str], thresholds: dict[str, float], start_block: int
) -> tuple[bool, ...]:
    flags, total = [], 0.0
    seen: dict[str, int] = {}
    for value, kind in zip(change, kinds, strict=True):
        index = seen[kind] = seen.get(kind, -1) + 1
        total += value
        compute = index <= start_block or not total < thresholds[kind]
        if compute:
            total = 0.0
        flags.append(compute)
    return tuple(flags)
