"""Selecting, gathering and scattering tokens for a token refresh."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xslim.policy.policy import Policy
from xslim.runtime.rows import Rows


def tokens_at(policy: Policy, total: int) -> int:
    """Return how many of a sample's tokens a refresh recomputes."""
    budget = policy.token.budget
    if policy.parity == "authors":
        return max(1, total - int((1 - budget) * total))
    return min(total, max(1, math.ceil(budget * total - 1e-9)))


def select_tokens(change: Tensor, age: Tensor, policy: Policy) -> Tensor:
    """Choose the tokens with the largest change plus age bonus, per sample.

    Shapes: change, age [rows, tokens] -> index [rows, chosen], ascending.
    Source: arXiv:2512.12604 (change of the residual); the age bonus after ToCa, arXiv:2410.05317.
    """
    scale = change.mean(1, keepdim=True).clamp_min(1e-12)
    weight = 0.0 if policy.parity == "authors" else policy.token.age_weight
    score = change / scale + weight * age
    chosen = score.topk(tokens_at(policy, change.shape[1]), dim=1).indices
    return chosen.sort(dim=1).values


def random_tokens(total: int, policy: Policy, step: int, device: torch.device) -> Tensor:
    """Draw the tokens that every sample recomputes at a step, the same at every run; copied without waiting.

    Shapes: -> index [chosen], ascending.
    Source: DuCa, arXiv:2412.18911, where tokens drawn uniformly do as well as important ones.
    """
    order = torch.randperm(total, generator=torch.Generator().manual_seed(step))
    chosen = order[: tokens_at(policy, total)].sort().values
    return (chosen.pin_memory() if device.type == "cuda" else chosen).to(device, non_blocking=True)


class TokenRecord:
    """Change and age of every token, as of the last time it was computed; one row a sample."""

    def __init__(self) -> None:
        self._change: Tensor | None = None  # [batch, tokens]
        self._age: Tensor | None = None  # [batch, tokens], refreshes that left the token out

    def note_all(self, change: Tensor, rows: Rows) -> None:
        """Note samples that computed every token. Shape: change [batch, tokens]."""
        if self._change is None or self._age is None:
            self._change, self._age = change, torch.zeros_like(change)
        elif len(rows):
            fresh = rows.take(change)
            rows.put(self._change, fresh)
            rows.put(self._age, torch.zeros_like(fresh))

    def note_chosen(self, change: Tensor, rows: Rows, chosen: Tensor) -> None:
        """Note samples that computed some tokens. Shapes: change [batch, tokens], chosen [rows, chosen]."""
        if self._change is None or self._age is None:
            return
        old, new = rows.take(self._change), rows.take(change)
        rows.put(self._change, old.scatter(1, chosen, new.gather(1, chosen)))
        age = rows.take(self._age) + 1
        rows.put(self._age, age.scatter(1, chosen, torch.zeros_like(chosen, dtype=age.dtype)))

    def select(self, rows: Rows, policy: Policy) -> Tensor | None:
        """Choose the tokens that a refresh of some samples recomputes, [rows, chosen]."""
        if not len(rows) or self._change is None or self._age is None:
            return None
        return select_tokens(rows.take(self._change), rows.take(self._age), policy)

    def tensors(self) -> list[Tensor]:
        """Everything held."""
        return [t for t in (self._change, self._age) if t is not None]


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Shapes: x [rows, tokens, dim], index [rows, chosen] -> [rows, chosen, dim]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def scatter_tokens(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Return x with values at the chosen tokens. Shapes as in `gather_tokens`."""
    return x.scatter(1, index[..., None].expand(-1, -1, x.shape[-1]), values)
