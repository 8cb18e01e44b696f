"""Train a text-to-picture or text-to-clip transformer, and its text encoders, by flow matching.

Phases (see `Phase`): the text encoders alone, where the task asks for it; small pictures; the full size; then
guidance distilled into the model's guidance embedding, as FLUX.1-dev and HunyuanVideo have it. The run writes
checkpoints, keeps an exponential moving average of the weights beside them, and goes on where it stopped.

Straight paths and velocity targets as in arXiv 2209.03003; logit-normal noise levels, shifted towards noise,
as in arXiv 2403.03206 section 3; distilled guidance as in arXiv 2210.03142.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.training.checkpoint import Stateful, save
from experiments.training.run import Run, descend, follow

log = logging.getLogger("flow")
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
PROMPT_DROPOUT = 0.1
EMA_DECAY = 0.997
DISTIL_LEARNING_RATE = 1e-3
DISTIL_EMA_DECAY = 0.98  # a short phase: the average must leave the weights it began with
LOG_EVERY = 20
EMA_SNAPSHOT_SECONDS = 1800
PLAIN_GUIDANCE = 1.0
MAX_GUIDANCE = 4.0  # distilled for 1 to this


@dataclass(frozen=True)
class Phase:
    """A stretch of the training run.

    Attributes:
        kind: `text` trains the text encoders on the task's `text_loss`, `small` on the task's cheaper data,
            `full` on its data, `distil` on guidance.
    """

    kind: Literal["text", "small", "full", "distil"]
    steps: int
    batch: int


class Task(Protocol):
    """What is trained: a pipeline's parts, its data and how its transformer is called."""

    shift: float  # of the noise levels towards noise, as the pipeline's scheduler shifts them

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The training run, stretch by stretch."""

    def build(self) -> nn.ModuleDict:
        """Return the untrained parts by their names in the pipeline."""

    def batch(self, size: int, small: bool) -> tuple[Tensor, list[str]]:
        """Return latents [size, …] of zero mean and unit variance, and prompts."""

    def velocity(
        self, parts: nn.ModuleDict, noisy: Tensor, sigma: Tensor, prompts: list[str], guidance: Tensor
    ) -> Tensor:
        """Predict noise minus data. Shapes: noisy as the latents; sigma and guidance [size]."""

    def text_loss(self, parts: nn.ModuleDict, prompts: list[str]) -> Tensor:
        """Return a loss on the text encoders alone, added to the velocity's; zero when they need none."""


def zero_modulation(model: nn.Module) -> None:
    """Start every block as the identity: adaLN-zero, as in DiT (arXiv 2212.09748)."""
    for name, parameter in model.named_parameters():
        if (".norm" in name and ".linear." in name) or name.startswith(("proj_out.", "norm_out.linear.")):
            nn.init.zeros_(parameter)


def learning_rate(step: int, schedule: Sequence[Phase]) -> float:
    """Linear warm-up, then cosine to zero; distilling begins afresh, with a lower peak.

    Args:
        step: in `schedule`.
        schedule: the phase of every step.
    """
    distilling = schedule[step].kind == "distil"
    first = next((i for i, phase in enumerate(schedule) if phase.kind == "distil"), len(schedule))
    begin, end = (first, len(schedule)) if distilling else (0, first)
    peak = DISTIL_LEARNING_RATE if distilling else LEARNING_RATE
    warmup = min(WARMUP_STEPS, (end - begin) // 10)
    if step - begin < warmup:
        return peak * (step - begin + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - begin - warmup) / max(end - begin - warmup, 1)))


def noise_levels(size: int, shift: float) -> Tensor:
    """Logit-normal levels in (0, 1), 1 = all noise, shifted by `shift`. Shape [size]."""
    level = torch.sigmoid(torch.randn(size))
    return shift * level / (1 + (shift - 1) * level)


def loss_of(task: Task, parts: nn.ModuleDict, teacher: nn.ModuleDict, phase: Phase) -> Tensor:
    """Mean squared error of the velocity on one random batch, and the text encoders' own loss."""
    x, prompts = task.batch(phase.batch, small=phase.kind in ("small", "text"))
    if phase.kind == "text":
        return task.text_loss(parts, prompts)
    sigma = noise_levels(len(x), task.shift)
    level = sigma.view(-1, *[1] * (x.ndim - 1))
    noise = torch.randn_like(x)
    noisy = (1 - level) * x + level * noise
    plain = torch.full((len(x),), PLAIN_GUIDANCE)
    if phase.kind == "distil":
        guidance = 1 + torch.rand(len(x)) * (MAX_GUIDANCE - 1)
        with torch.no_grad():
            with_prompt = task.velocity(teacher, noisy, sigma, prompts, plain)
            without = task.velocity(teacher, noisy, sigma, [""] * len(x), plain)
        target = without + guidance.view_as(level) * (with_prompt - without)
        return F.mse_loss(task.velocity(parts, noisy, sigma, prompts, guidance), target)
    text_loss = task.text_loss(parts, prompts)
    prompts = ["" if torch.rand(()) < PROMPT_DROPOUT else prompt for prompt in prompts]
    return F.mse_loss(task.velocity(parts, noisy, sigma, prompts, plain), noise - x) + text_loss


def train(task: Task, out: Path, seed: int) -> None:
    """Train through all phases, resuming from `out/checkpoint.pt` when it is there."""
    torch.manual_seed(seed)
    parts = task.build().train()
    ema = copy.deepcopy(parts).eval().requires_grad_(False)
    teacher = copy.deepcopy(ema)  # the moving average as it was when distilling began
    optimizer = torch.optim.AdamW(parts.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    state: dict[str, Stateful] = {"model": parts, "ema": ema, "teacher": teacher, "optimizer": optimizer}
    schedule = [phase for phase in task.phases for _ in range(phase.steps)]
    run = Run(out / "checkpoint.pt", state, len(schedule), log, LOG_EVERY)
    last_snapshot = time.monotonic()
    for step in run:
        phase = schedule[step]
        if phase.kind == "distil" and schedule[step - 1].kind != "distil":
            teacher.load_state_dict(ema.state_dict())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        loss = loss_of(task, parts, teacher, phase)
        descend(loss, parts.parameters(), optimizer)
        follow(ema, parts, step, DISTIL_EMA_DECAY if phase.kind == "distil" else EMA_DECAY)
        run.after(step, loss, f"{phase.kind} ")
        if time.monotonic() - last_snapshot > EMA_SNAPSHOT_SECONDS or run.last(step):
            save(out / f"ema-{step + 1}.pt", step + 1, {"ema": ema})
            last_snapshot = time.monotonic()
    log.info("done: %d steps", len(schedule))


def main(task: Task, description: str | None) -> None:
    """Command line entry of a task."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    train(task, args.out, args.seed)
