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

    PAIRED = "paired"  # a picture or clip with the uncached one of the same case: one value a case
    PROMPTED = "prompted"  # a picture or clip with its prompt, without a reference: one value a case
    SET = "set"  # a set of pictures with a reference set: one value


class Inputs(StrEnum):
    """What the arguments of a metric's function are."""

    IMAGES = "images"  # both [n, c, h, w]
    MAPS = "maps"  # both one [n, c, h, w] per stage of a network, and the network's weights of them
    LATENTS = "latents"  # both [n, …]
    PROMPTS = "prompts"  # a judge, images [n, c, h, w], n prompts
    FEATURES = "features"  # both [n, d]


class View(StrEnum):
    """Which pictures of a clip are compared; the case's value is the mean over them."""

    FRAMES = "frames"  # every frame; a picture is a clip of one frame
    CHANGES = "changes"  # (difference of neighbouring frames + 1) / 2, in [0, 1]; clips only


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric and what has to be known to compare, store and print its values.

    Attributes:
        name: role name, the key in rows, summaries and objectives.
        function: called with what `inputs` says; gives [n], or a float if it is a set metric.
        inputs: what `function` takes.
        kind: per case, or one value for a set.
        direction: which way is better.
        unit: "dB", or "" for a pure number.
        version: grows whenever the same pictures give another value.
        best: value of a perfect candidate; an unbiased estimate may scatter beyond it; None without a limit.
        label_format: how tables name the metric; `label` fills in `{name}`, `{net}` and `{n}`.
        view: which pictures of a clip are compared.
        min_side: pixels of the shorter side from which it is defined; below, it is not measured.
        warn_below_n: with fewer pictures the value is mostly bias; None if it is unbiased.
    """

    name: str
    function: Callable[..., Tensor | float]
    inputs: Inputs
    direction: Direction
    best: float | None
    kind: Kind = Kind.PAIRED
    unit: str = ""
    version: int = 1
    label_format: str = "{name}"
    view: View = View.FRAMES
    min_side: int = 1
    warn_below_n: int | None = None

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is better."""
        return self.direction is Direction.MAXIMIZE

    @property
    def per_case(self) -> bool:
        """Whether it gives one value a case, and so has a tail."""
        return self.kind is not Kind.SET

    @property
    def needs_net(self) -> bool:
        """Whether the value depends on a network."""
        return "{net}" in self.label_format

    @property
    def tail_q(self) -> int:
        """The percentile on the bad side: 5 if higher is better, else 95."""
        return 5 if self.higher_is_better else 95

    def better(self, a: float, b: float) -> bool:
        """Return whether `a` is strictly better than `b`."""
        return a > b if self.higher_is_better else a < b

    def applies(self, shape: tuple[int, ...]) -> bool:
        """Return whether pictures [n, c, h, w] or clips [n, t, c, h, w] of this shape can be measured."""
        moving = len(shape) == 5 and shape[1] > 1
        return min(shape[-2:]) >= self.min_side and (self.view is View.FRAMES or moving)

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
        return self.label_format.format(name=self.name, net=net, n=n)
