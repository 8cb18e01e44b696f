"""What a recipe may set of its maker, one class for each, so that a misspelt setting is told at once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from xslim._registry import Registry
from xslim.errors import ConfigError
from xslim.policy.document import Document

Share = Annotated[float, Field(gt=0, le=1)]  # of the steps, or of the blocks
Count = Annotated[int, Field(ge=1)]
Interval = Annotated[float, Field(ge=1)]  # steps from one full step to the next
Threshold = Annotated[float, Field(ge=0)]


class Nothing(Document):
    """There is nothing to set."""


class Refit(Document):
    """`degree` of the polynomial."""

    degree: Annotated[int, Field(ge=0, le=10)] = 4


class Uniform(Document):
    """`every` so many steps one is computed."""

    every: Count


class Steps(Document):
    """`share` of the reference's steps."""

    share: Share


class LeastSum(Document):
    """`share` of the steps in full; so many `first` ones always."""

    share: Share
    first: Count = 1


class Authors(Document):
    """Which of their schedules: the `model` and the `mode` that its file is named after."""

    model: str
    mode: str


class AuthorsTuner(Document):
    """Threshold in `means` of the curve; whether `refreshes` are kept, or computed in full."""

    means: Threshold = 1.0
    refreshes: bool = True


class Smooth(Document):
    """`alpha`, the relative error from which a block is computed, looking so many steps `ahead`."""

    alpha: Threshold
    ahead: Count = 3


class Bac(Document):
    """BAC's updates.

    Attributes:
        share: of the steps that a block is updated at.
        bubbling: how many of the blocks that err most are united.
    """

    share: Share
    bubbling: Annotated[int, Field(ge=0)] = 3


class ProfiledBlocks(Document):
    """ProfilingDiT's lists.

    Attributes:
        share: of the blocks, computed between full steps.
        every: interval of full steps; their last one where it falls.
        warmup_share: of the steps, all in full.
        slowest: first interval; None where it does not fall.
    """

    share: Share
    every: Interval
    warmup_share: Share
    slowest: Interval | None = None


class DeltaRange(Document):
    """`share` of the blocks in the range, full steps `every` so many, the `turn` as a share of the steps."""

    share: Share
    every: Interval
    turn: Annotated[float, Field(ge=0, le=1)] = 0.5


class StaticSet(Document):
    """`threshold` of the relative error; so many `first` and `last` steps in full."""

    threshold: Threshold
    first: Count = 1
    last: Count = 1


SETTINGS: Mapping[str, type[Document]] = Registry(
    "maker",
    MappingProxyType(
        {
            "policy": Nothing,
            "calibrated": Nothing,
            "refitted": Refit,
            "full": Nothing,
            "uniform": Uniform,
            "fewer-steps": Steps,
            "least-sum": LeastSum,
            "least-worst": Steps,
            "authors": Authors,
            "authors-tuner": AuthorsTuner,
            "smooth": Smooth,
            "bac": Bac,
            "profiled-blocks": ProfiledBlocks,
            "delta-range": DeltaRange,
            "static-set": StaticSet,
        }
    ),
    ConfigError,
)
