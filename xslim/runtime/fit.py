"""Whether the policy may be applied to a request; when not, it computes in full and says why."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from xslim.errors import AttachError, RequestMismatchError
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset
from xslim.policy.schedule import refreshes_blocks
from xslim.runtime.arrival import Arrival
from xslim.runtime.hooks import foreign_cache, offload_group
from xslim.runtime.model import LiveModel
from xslim.runtime.request import Request
from xslim.runtime.signature import SIGMA_TOLERANCE, describe_model, model_mismatch
from xslim.runtime.step import Step

log = logging.getLogger("xslim.runtime.session")


class Fit:
    """Checks requests against the preset and the state of the model.

    Args:
        model: the live model.
        policy: the policy.
        preset: the preset, or None for a bare policy.
        strict: raise instead of computing in full.
    """

    def __init__(self, model: LiveModel, policy: Policy, preset: Preset | None, strict: bool) -> None:
        self._model = model
        self._policy = policy
        self._preset = preset
        self._strict = strict
        self._warned: set[str] = set()
        self._overwrites: str | None = None
        self.inputs_checked = False  # whether a call has shown that the blocks leave their inputs alone

    def check_mode(self) -> None:
        """Raise an AttachError for a model that is being trained."""
        if self._model.transformer.training and torch.is_grad_enabled():
            raise AttachError(
                "the transformer is in training mode with gradients on, and features of one step cannot be "
                "reused in another's gradient; call model.eval(), run under torch.no_grad(), or detach"
            )

    def at_start(self, latent: Tensor, scheduler: object | None, num_steps: int) -> str | None:
        """Why a request that begins does not fit, or None."""
        transformer = self._model.transformer
        other = foreign_cache(transformer) or self._offloaded()
        if other is not None:
            return other
        if self._preset is None or self._overwrites is not None:
            return self._overwrites
        family = self._model.adapter.family
        live = describe_model(family, transformer, scheduler, num_steps, latent.shape)
        return model_mismatch(self._preset.model, live)

    def _offloaded(self) -> str | None:
        """Why the policy cannot work with weights that are brought block by block, or None."""
        group = offload_group(self._model.blocks)
        if group and "modulated_input" in self._policy.signals:
            return (
                "group offloading brings the first block's weights after modulated_input has read them; "
                "use first_block, latent_velocity or timestep_embedding, or offload_type='leaf_level'"
            )
        if group > 1 and refreshes_blocks(self._policy):
            return (
                f"group offloading brings {group} blocks with the first of them, which a block refresh may "
                "leave out; use num_blocks_per_group=1, or offload_type='leaf_level'"
            )
        return None

    def at_call(self, request: Request, arrival: Arrival) -> str | None:
        """Why a call of a request that fitted so far does not, or None."""
        if request.step >= request.num_steps:
            return f"more than {request.num_steps} steps"
        if request.names.problem is not None:
            return request.names.problem
        timesteps = None if self._preset is None else self._preset.model.timesteps
        if timesteps is None:
            return None
        wanted, listed = timesteps[request.step], request.listed_timestep
        told = arrival.time.value if listed is None else listed
        if abs(told - wanted) <= SIGMA_TOLERANCE * max(1.0, wanted):
            return None
        if listed is None and arrival.time.near(wanted):
            return None
        return f"timestep of step {request.step} is {told:g}, the preset was made for {wanted:g}"

    def after_call(self, step: Step) -> str | None:
        """Why nothing that a call computed may be reused, or None."""
        self.inputs_checked = True
        if not step.whole:
            return "a call leaves out the first or the last block, where reuse begins and ends"
        if step.overwritten is not None:
            self._overwrites = (
                f"block {step.overwritten} writes into its own input, so that what the blocks add cannot be "
                "told; use kernels that are not in place"
            )
        return self._overwrites

    def report(self, reason: str) -> None:
        """Warn, once a reason; or raise a RequestMismatchError when strict."""
        if self._strict:
            raise RequestMismatchError(f"{reason}; attach a preset made for this request")
        self.warn(f"policy not applied, computing in full: {reason}")

    def warn(self, message: str) -> None:
        """Warn, once a message."""
        if message not in self._warned:
            self._warned.add(message)
            log.warning("%s", message)
