"""What block and token refreshes recompute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from xslim.errors import ConfigError
from xslim.policy.document import Document

Budget = Annotated[float, Field(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class KindThresholds(Document):
    """Depth-accumulated change above which a block is recomputed, per kind of block."""

    double: NonNegative
    single: NonNegative


class BlockReuse(Document):
    """Which blocks a block refresh recomputes; `threshold` (as published) or `budget`, not both.

    Attributes:
        budget: share of the blocks that is recomputed.
        threshold: blocks are replayed while the accumulated mean |h_out - h_in| stays below it.
        start_block: blocks 0..start_block of each kind are always recomputed.
    """

    budget: Budget | None = None
    threshold: NonNegative | KindThresholds | None = None
    start_block: Annotated[int, Field(ge=-1, le=10_000)] = 3

    @model_validator(mode="before")
    @classmethod
    def _one_rule(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            given = [key for key in ("budget", "threshold") if data.get(key) is not None]
            if len(given) == 2:
                raise ConfigError("give budget or threshold, not both")
            if not given:
                return {**data, "budget": 0.5}
        return data


class TokenReuse(Document):
    """Which tokens a token refresh recomputes.

    Attributes:
        budget: share of the image tokens that is recomputed, per sample.
        age_weight: bonus per refresh that a token was left out, in units of the mean change.
    """

    budget: Budget = 0.5
    age_weight: NonNegative = 0.25
