"""What block and token refreshes recompute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from xslim.errors import ConfigError
from xslim.policy.document import UNWRITTEN, Document

Budget = Annotated[float, Field(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Blocks = Annotated[int, Field(ge=0, le=10_000)]


class KindThresholds(Document):
    """Depth-accumulated change above which a block is recomputed, per kind of block."""

    double: NonNegative
    single: NonNegative


class BlockReuse(Document):
    """Which blocks a block refresh recomputes: by `budget`, by `threshold` (as published), or by position.

    Attributes:
        budget: share of the blocks that is recomputed.
        threshold: blocks are replayed while the accumulated mean |h_out - h_in| stays below it.
        first: by position: so many blocks at the beginning of the stack, whatever their kind (First-Block
            Cache has 1; the F of cache-dit's DBCache).
        last: with it, so many at the end (the B of DBCache).
        start_block: blocks 0..start_block of each kind are always recomputed; not read by position.
    """

    budget: Budget | None = None
    threshold: NonNegative | KindThresholds | None = None
    first: Blocks | None = None
    last: Blocks | None = None
    start_block: Annotated[int, Field(ge=-1, le=10_000)] = 3

    @model_validator(mode="before")
    @classmethod
    def _one_rule(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        given = [key for key in ("budget", "threshold") if data.get(key) is not None]
        ends = {key: data[key] for key in ("first", "last") if data.get(key) is not None}
        if len(given) + bool(ends) > 1:
            rules = [*given, "first and last"] if ends else given
            raise ConfigError(f"give {' or '.join(rules)}, not both")
        if ends:
            return {**data, "first": 0, "last": 0, **ends}
        return data if given else {**data, "budget": 0.5}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.first == 0 and self.last == 0:
            raise ConfigError("got no block at either end; give first or last at least 1", key="first")
        return self

    def at_ends(self, blocks: int) -> tuple[bool, ...] | None:
        """One flag a block, True at the ends of a stack of so many; None where the features decide."""
        if self.first is None or self.last is None:
            return None
        return tuple(i < self.first or i >= blocks - self.last for i in range(blocks))


class TokenReuse(Document):
    """Which tokens a token refresh recomputes.

    Attributes:
        budget: share of the image tokens that is recomputed, per sample.
        age_weight: bonus per refresh that a token was left out, in units of the mean change; not read by
            `random`.
        select: `change` takes those with the largest change; `random` any, the same for all samples of a
            batch and at every run of a step (which does as well, DuCa, arXiv:2412.18911).
        kv_writeback: a refresh keeps the fresh keys and values for later ones; without, those of the last
            full step stay (ReCAP, arXiv:2505.19089).
    """

    budget: Budget = 0.5
    age_weight: NonNegative = 0.25
    select: Annotated[Literal["change", "random"], UNWRITTEN] = "change"
    kv_writeback: Annotated[bool, UNWRITTEN] = True

    @property
    def history(self) -> int:
        """Number of computed residuals that a refresh needs: to predict, and to tell the change of tokens."""
        return 2 if self.select == "change" else 1
