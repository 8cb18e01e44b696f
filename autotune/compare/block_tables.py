"""Static tables of which block is computed at which step, from the inner products of block residuals.

Each rule is a published one. Their sources compare features by L1 and cache attention and MLP apart; a
profile holds inner products of whole blocks' residuals, so distances here are L2 and a block is one unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.scoring.profile import Array

Table = NDArray[np.int_]  # [steps, blocks], 1 = compute
TINY = 1e-30


def relative_errors(gram: Array, ahead: int) -> Array:
    """Error of holding step i's residual until step i + j: |r_i - r_{i+j}| / |r_{i+j}|, L2.

    Shapes: gram [steps, steps] -> [steps, ahead + 1]; infinite beyond the end, 0 for j = 0.
    """
    steps = len(gram)
    found = np.full((steps, ahead + 1), np.inf)
    found[:, 0] = 0.0
    for i in range(steps):
        for j in range(1, min(ahead, steps - 1 - i) + 1):
            change = max(gram[i, i] + gram[i + j, i + j] - 2 * gram[i, i + j], 0.0)
            found[i, j] = np.sqrt(change / max(gram[i + j, i + j], TINY))
    return found


def smooth_steps(errors: Array, alpha: float) -> tuple[int, ...]:
    """Return the computed steps: from each, the farthest one whose error is at most alpha is skipped to.

    Only that farthest error is tested, as in the published code; first and last step are computed.
    Source: SmoothCache, arXiv:2411.10510.

    Args:
        errors: of `relative_errors`, averaged over what shares a schedule.
        alpha: the threshold.
    """
    steps, ahead = len(errors), errors.shape[1] - 1
    computed, i = [], 0
    while i < steps:
        computed.append(i)
        reach = [j for j in range(ahead, 0, -1) if errors[i, j] <= alpha]
        i += (reach[0] if reach else 0) + 1
    return tuple(sorted({*computed, steps - 1}))


def smooth_table(grams: Array, kinds: Sequence[str], alpha: float, ahead: int = 3) -> Table:
    """One schedule for each kind of block, its errors averaged over depth. Source: arXiv:2411.10510.

    Args:
        grams: inner products of each block's residuals, [blocks, steps, steps].
        kinds: kind of every block.
        alpha: the threshold.
        ahead: steps that a residual may be held at most.
    """
    table = np.zeros((grams.shape[1], len(kinds)), dtype=int)
    for kind in dict.fromkeys(kinds):
        chosen = [b for b, other in enumerate(kinds) if other == kind]
        errors = np.mean([relative_errors(grams[b], ahead) for b in chosen], axis=0)
        table[np.ix_(smooth_steps(errors, alpha), chosen)] = 1
    return table


def similarity(gram: Array) -> Array:
    """Cosines of a block's residuals at every two steps. Shapes: [steps, steps] -> [steps, steps]."""
    lengths = np.sqrt(np.maximum(np.diag(gram), TINY))
    found: Array = gram / np.outer(lengths, lengths)
    return found


def best_updates(sim: Array, count: int) -> tuple[int, ...]:
    """Return the steps at which a block is updated, step 0 among them, for the most similarity held.

    Maximises the sum over steps of sim[last update, step] exactly, by dynamic programming.
    Source: the adaptive schedule of BAC, arXiv:2506.13456, with pairwise similarities as in its code.

    Args:
        sim: [steps, steps].
        count: number of updates.
    """
    steps = len(sim)
    count = min(max(count, 1), steps)
    held = np.zeros((steps, steps + 1))  # [i, k]: sum of sim[i, i+1 .. k-1]
    for i in range(steps):
        held[i, i + 1 :] = np.concatenate([[0.0], np.cumsum(sim[i, i + 1 :])])
    best = np.full(steps, -np.inf)  # with the last update at each step
    best[0] = 0.0
    parents: list[NDArray[np.int_]] = []
    for _ in range(count - 1):
        through = best[:, None] + held[:, :steps]
        through[np.tril_indices(steps)] = -np.inf  # an update is behind the one before
        parents.append(np.argmax(through, axis=0))
        best = np.max(through, axis=0)
    at = int(np.argmax(best + held[:, steps]))
    path = [at]
    for parent in reversed(parents):
        at = int(parent[at])
        path.append(at)
    return tuple(reversed(path))


def reuse_error(gram: Array) -> float:
    """Mean distance of a block's residuals at two steps, which tells how much error its reuse sends on."""
    diagonal = np.diag(gram)
    squared = np.maximum(diagonal[:, None] + diagonal[None] - 2 * gram, 0.0)
    return float(np.sqrt(squared).mean())


def bac_table(grams: Array, count: int, bubbling: int = 3) -> Table:
    """Each block's own best updates, joined with those of the blocks behind it that err most.

    The bubbling union: of the `bubbling` blocks with the largest reuse error, each is also updated whenever
    a later one of the blocks is, because an update absorbs the errors that reached it. Source:
    arXiv:2506.13456; there sub-blocks are united with the MLPs downstream, here blocks with the last of them.

    Args:
        grams: [blocks, steps, steps].
        count: updates of each block.
        bubbling: how many blocks are united; below 2 none, as in the published code.
    """
    blocks, steps = grams.shape[:2]
    chosen = [set(best_updates(similarity(gram), count)) for gram in grams]
    if bubbling >= 2:
        errors = [reuse_error(gram) for gram in grams]
        upper = sorted(range(blocks), key=lambda b: -errors[b])[:bubbling]
        for block in sorted(upper):
            chosen[block] = chosen[block].union(*(chosen[b] for b in upper if b >= block))
    table = np.zeros((steps, blocks), dtype=int)
    for block, updates in enumerate(chosen):
        table[sorted(updates), block] = 1
    return table


def due_steps(steps: int, warmup: int, every: float, slowest: float | None = None) -> tuple[int, ...]:
    """Full steps: the warm-up, and then with intervals that go from `slowest` down to `every`.

    Source of falling intervals: ProfilingDiT, arXiv:2504.03140.
    """
    found, at = list(range(warmup)), float(warmup - 1)
    while True:
        share = (at - warmup + 1) / max(1, steps - warmup)
        wide = every if slowest is None else slowest - (slowest - every) * share
        at += max(1.0, wide)
        if round(at) >= steps:
            return tuple(found)
        found.append(round(at))


def profiled_table(grams: Array, share: float, full: Sequence[int]) -> Table:
    """Between full steps the blocks whose residual changes most are computed, all others replayed.

    Source: ProfilingDiT, arXiv:2504.03140, which ranks blocks by the attention on a segmented foreground;
    ours ranks them by the profile's mean relative change from step to step.

    Args:
        grams: [blocks, steps, steps].
        share: of the blocks that is computed at every step.
        full: steps at which all are.
    """
    change = [float(relative_errors(gram, 1)[:-1, 1].mean()) for gram in grams]
    wanted = max(1, round(share * len(grams)))
    kept = sorted(range(len(grams)), key=lambda b: -change[b])[:wanted]
    table = np.zeros((grams.shape[1], len(grams)), dtype=int)
    table[:, kept] = 1
    table[list(full)] = 1
    return table


def delta_table(blocks: int, steps: int, share: float, full: Sequence[int], turn: float = 0.5) -> Table:
    """Between full steps a range of blocks is replayed: the last ones early in sampling, the first ones late.

    Source: Delta-DiT, arXiv:2406.01125 (deep blocks make details, shallow ones outlines).

    Args:
        blocks: of the model.
        steps: of the request.
        share: of the blocks that is replayed.
        full: steps at which none is.
        turn: share of the way at which the range moves from the back to the front.
    """
    length = min(blocks, max(1, round(share * blocks)))
    table = np.ones((steps, blocks), dtype=int)
    for step in sorted(set(range(steps)) - set(full)):
        first = blocks - length if step < turn * steps else 0
        table[step, first : first + length] = 0
    return table


def held_steps(gram: Array, threshold: float, first: int, last: int) -> tuple[int, ...]:
    """Full steps of a static set: the kept residual is renewed when it errs by the threshold or more.

    Source: the offline policy of ERTACache, arXiv:2508.21091, with L2 for L1.

    Args:
        gram: inner products of what is reused, [steps, steps].
        threshold: of |kept - true| / |true|.
        first: full steps at the beginning.
        last: full steps at the end.
    """
    steps, kept, found = len(gram), 0, []
    for step in range(steps):
        change = max(gram[kept, kept] + gram[step, step] - 2 * gram[kept, step], 0.0)
        wrong = np.sqrt(change / max(gram[step, step], TINY)) >= threshold
        if step < max(1, first) or step >= steps - last or wrong:
            found.append(step)
            kept = step
    return tuple(found)
