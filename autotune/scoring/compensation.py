"""Trains the learned corrector on recorded residuals: what a predictor gives, and what was true.

Source: the compensation of arXiv:2604.04018, which there is trained with the model it compensates; training
on pairs of residuals alone is ours. As with the affine correctors, the pairs come from uncached trajectories:
what earlier skips change in the latent is not in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from autotune.scoring.rectify import predictions
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.prediction import Mlp
from xslim.runtime.compensation import EPS

HIDDEN = 2  # times the width; arXiv:2604.04018
RATE = 1e-3  # of AdamW; likewise
STEPS = 400  # of the optimiser
TOKENS = 2048  # in a batch
TINY = 1e-12


def train(
    residuals: NDArray[np.float32], policy: Policy, steps: int = STEPS, seed: int = 0
) -> dict[str, Tensor]:
    """Fit g(x) = x + W2 GELU(W1 LN(x)) to the predictions of a static policy.

    The loss is the mean squared error over the true residual's mean square at the same step, so that steps
    of small residuals count like those of large ones. It begins as the identity, and what it adds is in units
    of the residuals' root mean square.

    Args:
        residuals: stack residuals of uncached runs, [rows, steps, tokens, dim]; see `rectify.record`.
        policy: a static policy of as many steps and its predictor; a corrector that it has is left out.
        steps: of AdamW.
        seed: of the first weights and of the batches.

    Returns:
        The weights by name, as `Mlp` describes them.

    Raises:
        ConfigError: the policy is not static, is for another number of steps, or skips none.
    """
    x, wanted, weights = _pairs(residuals, policy)
    dim, scale = x.shape[1], float(wanted.square().mean().sqrt())
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        norm, up, down = nn.LayerNorm(dim, EPS), nn.Linear(dim, HIDDEN * dim), nn.Linear(HIDDEN * dim, dim)
        nn.init.zeros_(down.weight)
        nn.init.zeros_(down.bias)
        network = nn.ModuleDict({"norm": norm, "up": up, "down": down})
        optimiser = torch.optim.AdamW(network.parameters(), lr=RATE)
        for _ in range(steps):
            chosen = torch.randint(len(x), (min(TOKENS, len(x)),))
            found = x[chosen] + scale * down(F.gelu(up(norm(x[chosen]))))
            loss = ((found - wanted[chosen]).square().mean(1) * weights[chosen]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return {**state, **{name: scale * state[name] for name in ("down.weight", "down.bias")}}


def save_compensation(weights: Mapping[str, Tensor], path: Path) -> Mlp:
    """Write the weights; return the corrector that names them, with an absolute path."""
    raw = save({name: tensor.contiguous() for name, tensor in weights.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return Mlp(weights=str(path.absolute()), sha256=sha256(raw).hexdigest())


def _pairs(residuals: NDArray[np.float32], policy: Policy) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted and true residual of every token of a skipped step, [n, dim], and its weight, [n]."""
    plain = policy.model_copy(update={"corrector": None})
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for _, predicted, true in predictions(residuals, plain):
        x, wanted = (
            torch.from_numpy(part).float().reshape(-1, predicted.shape[-1]) for part in (predicted, true)
        )
        found.append((x, wanted, torch.full((len(x),), 1 / max(TINY, float(wanted.square().mean())))))
    if not found:
        raise ConfigError("skips no step; a corrector is fitted to what is predicted", key="controller")
    x, wanted, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    return x, wanted, weights
