"""What is known of a metric besides its number: direction, unit, version, and how it is printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from xslim.errors import ConfigError


class Direction(StrEnum):
    """Which way is better, in Optuna's own words."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class Kind(StrEnum):
    """What a metric compares."""

    PAIRED = "paired"  # a picture with the uncached picture of the same case: one value a picture
    SET = "set"  # a set of pictures with a reference set: one value


class Inputs(StrEnum):
    """What both arguments of a metric's function are."""

    IMAGES = "images"  # [n, c, h, w]
    MAPS = "maps"  # one [n, c, h, w] per stage of a network
    FEATURES = "features"  # [n, d]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric and what has to be known to compare, store and print its values.

    Attributes:
        name: role name, the key in rows, summaries and objectives.
        function: called with (candidate, reference); gives [n] if paired, else a float.
        inputs: what `function` takes.
        kind: per picture, or one value for a set.
        direction: which way is better.
        unit: "dB", or "" for a pure number.
        version: grows whenever the same pictures give another value.
        best: value of a perfect candidate; an unbiased estimate may scatter beyond it.
        label_format: how tables name the metric; `{net}` and `{n}` are filled in by `label`.
        warn_below_n: with fewer pictures the value is mostly bias; None if it is unbiased.
    """

    name: str
    function: Callable[..., Tensor | float]
    inputs: Inputs
    kind: Kind
    direction: Direction
    unit: str
    version: int
    best: float
    label_format: str
    warn_below_n: int | None = None

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is better."""
        return self.direction is Direction.MAXIMIZE

    @property
    def tail_q(self) -> int:
        """The percentile on the bad side: 5 if higher is better, else 95."""
        return 5 if self.higher_is_better else 95

    def better(self, a: float, b: float) -> bool:
        """Return whether `a` is strictly better than `b`."""
        return a > b if self.higher_is_better else a < b

    def label(self, *, net: str = "digits", n: int | None = None) -> str:
        """Return the printed name, such as `lpips_digits` or `fid_digits@256`.

        Args:
            net: the network whose features were used.
            n: number of pictures; set metrics need it.

        Raises:
            ConfigError: a set metric without its number of pictures.
        """
        if self.kind is Kind.SET and n is None:
            raise ConfigError(f"{self.name} is printed with its number of pictures; pass n=", key="n")
        return self.label_format.format(net=net, n=n)
