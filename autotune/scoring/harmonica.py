"""Learns a static step x block table by gradient descent, along its own cached trajectories.

Source: HarmoniCa, arXiv:2410.01723: a router of one free logit for each step and module, whose sigmoid mixes
fresh and kept features; step-wise denoising training, and weights of the steps by the error of the final
image. The router does not see the input, so what is learned is a table. Ours differs in this:

- a logit is a block's, not an attention's or a feed-forward layer's, for our tables are of blocks;
- the price of a block is its share of the MACs of all blocks;
- weights of the steps are taken once, after a quarter of the rollouts, and brought to a mean of 1, so that
  `beta` keeps its meaning;
- tens of rollouts instead of 20,000, with a step size that takes a logit to its limit in all of them;
- what a block computed is kept, and in the end a block is computed, where its weight is above 0.5; in the
  source both are 0.1, but so few rollouts leave many weights in between.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import xslim
from autotune.scoring.case import Case
from autotune.scoring.mixing import THRESHOLD, Mixer
from autotune.scoring.pipeline import PipelineRunner
from xslim.policy.policy import Policy

log = logging.getLogger(__name__)

LIMIT = 5.0  # logits are kept within plus and minus this
RATE = 0.01  # of AdamW, at least
WEIGHED = 4  # steps are weighed after one in so many rollouts
IMPORTANCE = (0.1, 10.0)  # range of a step's weight

Table = tuple[tuple[int, ...], ...]


def learn_table(
    runner: PipelineRunner,
    cases: Sequence[Case],
    beta: float,
    rollouts: int,
    pictures: int,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Table:
    """Learn which blocks are computed at which steps.

    Args:
        runner: of the model.
        cases: whose prompts are drawn in turn, with noise of the seed's.
        beta: price of computing all blocks of a step, in units of the output's mean squared error; the
            higher, the faster the table.
        rollouts: requests that are drawn, each at the cost of about four uncached ones.
        pictures: of a rollout.
        seed: of the noise; the same seed gives the same table.
        stop: asked before every rollout.

    Returns:
        One row a step of 1 (compute) and 0 (replay) for every block, as `controller: {kind: table}` takes
        them; the first row is all ones.
    """
    learner = Router(runner, beta, rate=max(RATE, LIMIT / max(1, rollouts)))
    draw = _batches(cases, pictures, seed)
    with _frozen(runner.pipe.transformer):
        for rollout in range(rollouts):
            if stop():
                break
            if rollout and rollout == rollouts // WEIGHED:
                learner.weigh_steps(next(draw))
            error = learner.roll(next(draw))
            share = sum(map(sum, learner.table)) / (runner.num_steps * learner.blocks)
            log.info("rollout %d of %d: error %.3g, %.2f of the blocks", rollout + 1, rollouts, error, share)
    return learner.table


class Router:
    """The logits of a table, and what moves them.

    Attributes:
        blocks: in the transformer.
        logits: one row a step, [blocks] each; the first row is not learned.
        importance: weight of each step's error.
    """

    def __init__(self, runner: PipelineRunner, beta: float, rate: float) -> None:
        self._runner, self._beta = runner, beta
        self._mixer = Mixer(runner, self._weights, self._learn)
        self.blocks = len(self._mixer.model.blocks)
        # one parameter a step, so that a step's gradient moves its own row only
        self.logits = [nn.Parameter(torch.zeros(self.blocks)) for _ in range(runner.num_steps)]
        self._optimiser = torch.optim.AdamW(self.logits[1:], lr=rate, weight_decay=0.0)
        self.importance = torch.ones(runner.num_steps)
        self._errors: list[float] = []

    @property
    def table(self) -> Table:
        """The rows as they are now."""
        rows = [tuple(int(w > THRESHOLD) for w in row.sigmoid().tolist()) for row in self.logits[1:]]
        return ((1,) * self.blocks, *rows)

    def roll(self, cases: Sequence[Case]) -> float:
        """Draw cases with mixed blocks, learn at every step; return the mean squared error of the outputs."""
        self._errors = []
        with self._mixer.installed():
            self._runner.draw(cases)
        return sum(self._errors) / max(1, len(self._errors))

    def weigh_steps(self, cases: Sequence[Case]) -> None:
        """Weigh each step by what its row changes in the final latents, given the rows before it.

        Source: the image error proxy of arXiv:2410.01723. Rows that compute everything change nothing and
        tell nothing; they weigh 1.
        """
        rows = [(1,) * self.blocks] * len(self.logits)
        latents, changes = self._runner.draw(cases).latents, torch.zeros(len(rows))
        for step, row in enumerate(self.table):
            if all(row):
                continue
            rows[step] = row
            policy = Policy.parse({"controller": {"kind": "table", "blocks": rows}})
            with xslim.attach(self._runner.pipe, policy, num_steps=len(rows)):
                found = self._runner.draw(cases).latents
            changes[step] = (found - latents).square().mean()
            latents = found
        told = changes > 0
        if told.any():
            relative = (changes / changes[told].mean()).clamp(*IMPORTANCE)
            self.importance = torch.where(told, relative, torch.ones(()))

    def _weights(self, step: int) -> Tensor:
        return self.logits[step].sigmoid()

    def _learn(self, step: int, full: Tensor, mixed: Tensor) -> None:
        """One step of the optimiser on one call of the transformer."""
        error = (full - mixed).square().mean()
        shares = self._mixer.shares()
        loss = step_loss(error, self.logits[step].sigmoid(), shares, self.importance[step], self._beta)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        with torch.no_grad():
            self.logits[step].clamp_(-LIMIT, LIMIT)
        self._errors.append(float(error.detach()))


def step_loss(error: Tensor, weights: Tensor, shares: Tensor, importance: Tensor, beta: float) -> Tensor:
    """λ · error + β · Σ w · share.

    Args:
        error: mean squared error of the output.
        weights: w of the blocks.
        shares: of the blocks in the MACs of all.
        importance: λ of the step.
        beta: price of computing all blocks.

    Source: arXiv:2410.01723, there without the shares.
    """
    return importance.to(error.device) * error + (beta * (weights * shares).sum()).to(error.device)


def _batches(cases: Sequence[Case], size: int, seed: int) -> Iterator[tuple[Case, ...]]:
    """The prompts in turn with new noise, without end."""
    noise, count = random.Random(seed), 0
    while True:
        prompts = [cases[(count + i) % len(cases)].prompt for i in range(size)]
        yield tuple(Case(prompt, noise.getrandbits(31)) for prompt in prompts)
        count += size


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients of a module's own parameters inside."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
