"""attach: put a policy or a preset on a pipeline or a transformer."""

from __future__ import annotations

from torch import nn

from xslim.errors import AttachError, ConfigError, UnsupportedModelError
from xslim.policy.decision import Action
from xslim.policy.policy import DualThreshold, Interval, Pattern, Policy
from xslim.policy.preset import Preset
from xslim.runtime.hooks import foreign_cache
from xslim.runtime.model import LiveModel
from xslim.runtime.session import Session


def attach(
    target: object,
    policy: Policy | Preset,
    num_steps: int | None = None,
    strict: bool = False,
) -> Session:
    """Apply a policy to a diffusers pipeline or transformer until the session is detached.

    Args:
        target: a pipeline with a `transformer`, or a transformer. With a pipeline the scheduler is seen
            too, so that a request's number of steps and sigmas are known and checked.
        policy: a preset, or a bare policy.
        num_steps: denoising steps of a request; from the preset when None.
        strict: raise instead of computing in full when a request does not fit the preset.

    Raises:
        UnsupportedModelError: no adapter knows the transformer's class, or the policy refreshes tokens and
            the model cannot.
        AttachError: the model is attached already, or has another cache enabled. A call raises it for a
            model in training mode with gradients on.
        ConfigError: `num_steps` is missing or does not fit, or the weights of a learned corrector are not
            those that the policy names.
    """
    transformer = getattr(target, "transformer", target)
    if not isinstance(transformer, nn.Module):
        raise UnsupportedModelError(
            f"{type(target).__name__} is no diffusers pipeline with a transformer, and no transformer"
        )
    preset = policy if isinstance(policy, Preset) else None
    bare = policy.policy if isinstance(policy, Preset) else policy
    if not isinstance(bare, Policy):
        raise ConfigError(
            f"got {type(policy).__name__}; allowed: a Policy or a Preset, which xslim.load_preset() gives",
            key="policy",
        )
    steps = _steps(preset, num_steps)
    other = foreign_cache(transformer)
    if other is not None:
        raise AttachError(other)
    model = LiveModel(transformer)
    _check_table(bare, model)
    _check_tokens(bare, model)

    def scheduler() -> object | None:
        return None if target is transformer else getattr(target, "scheduler", None)

    return Session(model, bare, steps, preset, scheduler, strict)


def _steps(preset: Preset | None, num_steps: int | None) -> int:
    if preset is not None:
        if num_steps is not None and num_steps != preset.model.num_steps:
            raise ConfigError(
                f"got {num_steps}; the preset was made for {preset.model.num_steps} steps", key="num_steps"
            )
        return preset.model.num_steps
    if num_steps is None:
        raise ConfigError(
            "missing; a bare policy needs the number of denoising steps, as in attach(..., num_steps=50)",
            key="num_steps",
        )
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ConfigError(f"got {num_steps!r}; allowed is a whole number from 1", key="num_steps")
    return num_steps


def _check_table(policy: Policy, model: LiveModel) -> None:
    if policy.controller.kind == "table":
        width = len(policy.controller.blocks[0])
        if width != len(model.blocks):
            raise ConfigError(
                f"rows of {width} entries; the model has {len(model.blocks)} blocks", key="controller.blocks"
            )


def _check_tokens(policy: Policy, model: LiveModel) -> None:
    reason, controller = model.no_tokens, policy.controller
    if reason is None:
        return
    if isinstance(controller, Pattern) and Action.TOKEN in controller.steps:
        remedy = "write B or F instead of T in controller.steps"
    elif isinstance(controller, DualThreshold) and "token" in controller.polish:
        remedy = "set controller.polish to [block]"
    elif isinstance(controller, Interval) and Action.TOKEN in controller.reuses:
        remedy = "leave token out of controller.between"
    else:
        return
    name = type(model.transformer).__name__
    raise UnsupportedModelError(f"no token refresh on this {name}: {reason}; {remedy}")
