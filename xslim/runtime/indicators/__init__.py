"""Step-level signals that read tensors; those that read a table live in the controller."""

from __future__ import annotations

from collections.abc import Callable

from xslim._registry import Registry
from xslim.errors import ConfigError
from xslim.runtime.indicators.base import Features, Indicator, Measured
from xslim.runtime.indicators.change import first_block, modulated_input, timestep_embedding
from xslim.runtime.indicators.direction_stability import DirectionStability
from xslim.runtime.indicators.latent_velocity import LatentVelocity

INDICATORS: Registry[Callable[[], Indicator]] = Registry(
    "indicator",
    {
        "modulated_input": modulated_input,
        "first_block": first_block,
        "timestep_embedding": timestep_embedding,
        "latent_velocity": LatentVelocity,
        "direction_stability": DirectionStability,
    },
    ConfigError,
)

__all__ = ["INDICATORS", "Features", "Indicator", "Measured"]
