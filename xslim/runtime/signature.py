"""Whether a preset fits the live model and the request; the runtime fails closed when it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from xslim.policy.preset import ModelSignature, config_sha256

SIGMA_TOLERANCE = 1e-3  # relative; schedulers round timesteps and alphas differently between versions


def describe_model(
    family: str,
    transformer: nn.Module,
    scheduler: object | None,
    num_steps: int,
    latent_size: Sequence[int] | None,
    guidance_scale: float | None = None,
) -> ModelSignature:
    """Return the signature of a live model and request.

    Args:
        family: adapter name.
        transformer: a diffusers transformer.
        scheduler: its scheduler with timesteps set, or None.
        num_steps: denoising steps.
        latent_size: shape of the latent, [batch, channels, height, width] or with frames, or
            [batch, tokens, channels]; or None.
        guidance_scale: recorded only.
    """
    height, width = latent_size[-2:] if latent_size is not None and len(latent_size) >= 4 else (None, None)
    model_config: Mapping[str, object] = getattr(transformer, "config", {})
    return ModelSignature(
        family=family,
        transformer=type(transformer).__name__,
        config_sha256=config_sha256(model_config),
        **describe_sampling(scheduler, num_steps),
        height=height,
        width=width,
        latent_shape=None if latent_size is None else tuple(latent_size[1:]),
        guidance_scale=guidance_scale,
        dtype=str(transformer.dtype).removeprefix("torch."),
        adapters=loaded_adapters(transformer),
    )


def describe_sampling(scheduler: object | None, num_steps: int) -> dict[str, Any]:
    """Return the part of a signature that tells scheduler and steps. Arguments as above."""
    config = getattr(scheduler, "config", None)
    return {
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "scheduler_sha256": None if config is None else config_sha256(config),
        "num_steps": num_steps,
        "timesteps": scheduler_timesteps(scheduler),
        "sigmas": scheduler_sigmas(scheduler),
    }


def loaded_adapters(transformer: nn.Module) -> tuple[str, ...]:
    """Names of the PEFT adapters (LoRA) at work in a transformer; loaded but disabled ones are left out."""
    names: set[str] = set()
    for module in transformer.modules():
        disabled, active = getattr(module, "disable_adapters", None), getattr(module, "active_adapters", None)
        if disabled is False and isinstance(active, list | tuple):  # a tuner's layer; models have methods
            names |= {str(name) for name in active if name in getattr(module, "lora_A", {name})}
    return tuple(sorted(names))


def scheduler_timesteps(scheduler: object | None) -> tuple[float, ...] | None:
    """The timesteps a scheduler is set to."""
    timesteps = getattr(scheduler, "timesteps", None)
    return None if timesteps is None else tuple(as_floats(timesteps))


def as_floats(values: Any) -> list[float]:
    """Numbers of a tensor, array or list; a tensor is copied from its device at once."""
    return [float(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def scheduler_sigmas(scheduler: object | None) -> tuple[float, ...] | None:
    """The noise level of each step: the scheduler's own sigmas, or sqrt((1 - a) / a) of its alpha table."""
    timesteps = scheduler_timesteps(scheduler)
    if timesteps is None:
        return None
    own = getattr(scheduler, "sigmas", None)
    if own is not None:
        return tuple(round(sigma, 6) for sigma in as_floats(own[: len(timesteps)]))
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        return None
    at = [float(alphas[min(len(alphas) - 1, max(0, int(t)))]) for t in timesteps]
    return tuple(round(((1 - alpha) / alpha) ** 0.5, 6) for alpha in at)


def model_mismatch(wanted: ModelSignature, live: ModelSignature) -> str | None:
    """Why a preset does not fit a live model and request, in words; None when it fits.

    Only what both sides know is compared: attached to a bare transformer, the scheduler is not seen.
    """
    checks = ("transformer", "config_sha256", "scheduler", "scheduler_sha256", "num_steps")
    for name in (*checks, "height", "width", "latent_shape", "dtype", "adapters"):
        ours, theirs = getattr(wanted, name), getattr(live, name)
        if ours is not None and theirs is not None and ours != theirs:
            return f"{name} is {_short(theirs)}, the preset was made for {_short(ours)}"
    if wanted.sigmas is not None and live.sigmas is not None:
        for step, (ours, theirs) in enumerate(zip(wanted.sigmas, live.sigmas, strict=False)):
            if abs(ours - theirs) > SIGMA_TOLERANCE * max(abs(ours), abs(theirs), 1e-6):
                return f"sigma of step {step} is {theirs:g}, the preset was made for {ours:g}"
    return None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
