"""Step-level signals that read tensors; `step_table` reads a table and lives in the controller."""

from __future__ import annotations

from collections.abc import Callable

from xslim._registry import Registry
from xslim.errors import ConfigError
from xslim.runtime.indicators.base import Features, Indicator, Measured
from xslim.runtime.indicators.change import first_block, modulated_input
from xslim.runtime.indicators.latent_velocity import LatentVelocity

INDICATORS: Registry[Callable[[], Indicator]] = Registry(
    "indicator",
    {"modulated_input": modulated_input, "first_block": first_block, "latent_velocity": LatentVelocity},
    ConfigError,
)

__all__ = ["INDICATORS", "Features", "Indicator", "Measured"]
