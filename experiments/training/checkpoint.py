"""Checkpoints of training runs: written whole or not at all, with the state of the random numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

log = logging.getLogger("checkpoint")


class Stateful(Protocol):
    """A model, an optimiser or a learning-rate schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take back what `state_dict` returned."""


def save(path: Path, step: int, parts: Mapping[str, Stateful]) -> None:
    """Write a checkpoint so that a killed run never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    state = {name: value.state_dict() for name, value in parts.items()}
    torch.save({"step": step, "rng": torch.get_rng_state(), **state}, part)
    part.replace(path)


def load(path: Path, parts: Mapping[str, Stateful]) -> int:
    """Take up the checkpoint at `path`; return the step that comes next, 0 when there is none."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, value in parts.items():
        value.load_state_dict(state[name])
    torch.set_rng_state(state["rng"])
    log.info("resumed at step %d", state["step"])
    return int(state["step"])
