"""Pipelines and policies of the runtime tests."""

from __future__ import annotations

import pytest
from diffusers import DiTPipeline

from tests.tiny import dit_pipeline
from xslim import Policy


@pytest.fixture
def pipe() -> DiTPipeline:
    return dit_pipeline()


@pytest.fixture
def mixed() -> Policy:
    """All four actions in 8 steps, with history, block residuals, keys and values in use."""
    return Policy.from_pattern(
        "FFB.FT.F", start_block=0, block_threshold=1.0, predictor={"kind": "newton", "order": 1}
    )


@pytest.fixture
def adaptive() -> Policy:
    """A dual-threshold policy that takes all four actions on the tiny model."""
    return Policy(
        controller={"kind": "dual-threshold", "critical": 1.2, "warning_fraction": 0.5, "warmup": 2},
        indicator={"signals": {"modulated_input": 0.7, "latent_velocity": 0.3}},
        block={"budget": 0.5, "start_block": 0},
        predictor={"kind": "newton", "order": 1},
    )
