"""Selecting, gathering and scattering tokens for a token refresh."""

from __future__ import annotations

import math

from torch import Tensor

from xslim.policy.policy import TokenReuse


def tokens_at(rule: TokenReuse, total: int) -> int:
    """Return how many of a sample's tokens a refresh recomputes."""
    return min(total, max(1, math.ceil(rule.budget * total - 1e-9)))


def select_tokens(change: Tensor, age: Tensor, rule: TokenReuse) -> Tensor:
    """Choose the tokens with the largest change plus age bonus, per sample.

    Shapes: change, age [rows, tokens] -> index [rows, chosen], ascending.
    Source: arXiv:2512.12604 (change of the residual); the age bonus after ToCa, arXiv:2410.05317.
    """
    scale = change.mean(1, keepdim=True).clamp_min(1e-12)
    score = change / scale + rule.age_weight * age
    chosen = score.topk(tokens_at(rule, change.shape[1]), dim=1).indices
    return chosen.sort(dim=1).values


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Shapes: x [rows, tokens, dim], index [rows, chosen] -> [rows, chosen, dim]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def scatter_tokens(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Return x with values at the chosen tokens. Shapes as in `gather_tokens`."""
    return x.scatter(1, index[..., None].expand(-1, -1, x.shape[-1]), values)
