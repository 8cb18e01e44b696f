"""What stands in for a stack residual that was not computed: the predictor and its corrector."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xslim.errors import ConfigError
from xslim.policy.calibration import Calibration
from xslim.policy.document import UNWRITTEN, Document

Finite = Annotated[float, Field(ge=-1e6, le=1e6)]
Row = Annotated[tuple[Finite, ...], Field(strict=False, min_length=1, max_length=100_000)]
Steps = Annotated[tuple[Finite | Row, ...], Field(strict=False, min_length=1, max_length=10_000)]


class Pade(Document):
    """Keys of the `pade` predictor.

    Attributes:
        decay: how fast trust in the slope falls with the change of the residual; 10 in arXiv:2603.02943.
        alpha: weight of the newest residual in the first stage, the older one has 1 - alpha. Not
            published; 1, plain reuse, is ours.
        beta: share of the slope that is added in the last stage. Not published; 0, none, is ours.
    """

    decay: Annotated[float, Field(gt=0.0, le=1e6)] = 10.0
    alpha: Annotated[float, Field(ge=-10.0, le=10.0)] = 1.0
    beta: Annotated[float, Field(ge=-10.0, le=10.0)] = 0.0


class Predictor(Document):
    """What a skipped stack's residual is predicted by.

    Attributes:
        kind: the rule; see docs/policies.md.
        order: degree of the polynomial; read by `newton` and `taylor`.
        curvature: factor of what the polynomial adds to the line through the last two residuals; 1 is the
            polynomial, 0 the line. Read by `newton` and `taylor` from order 2 on.
        pade: read by `pade`; its defaults where left out.
        gamma: read by `gamma`, which needs it: the size of the residual over progress from 0 (first step)
            to 1 (last), which is the product of the gammas of arXiv:2506.09045 up to there.
    """

    kind: Literal["hold", "newton", "taylor", "pade", "foca", "gamma"] = "hold"
    order: Annotated[int, Field(ge=1, le=4)] = 1
    curvature: Annotated[float, Field(ge=0.0, le=2.0), UNWRITTEN] = 1.0
    pade: Pade | None = None
    gamma: Calibration | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gamma is None:
            if self.kind == "gamma":
                raise ConfigError(
                    "missing; the kind gamma needs its table of sizes over progress", key="gamma"
                )
            return self
        if self.gamma.x[0] != 0.0 or self.gamma.x[-1] != 1.0:
            raise ConfigError(
                f"x runs from {self.gamma.x[0]:g} to {self.gamma.x[-1]:g}; give progress from 0 to 1",
                key="gamma.x",
            )
        if min(self.gamma.y) <= 0.0:
            raise ConfigError(f"got the size {min(self.gamma.y):g}; sizes are above 0", key="gamma.y")
        return self

    @property
    def history(self) -> int:
        """Number of computed residuals that the prediction reads."""
        if self.kind in ("newton", "taylor"):
            return self.order + 1
        return {"pade": 2, "foca": 3}.get(self.kind, 1)


class NoCorrector(Document):
    """Predictions are used as they are."""

    kind: Literal["none"] = "none"


class Affine(Document):
    """Takes the expected error off a predicted residual p: what is left is p - (slope * p + offset).

    Source: the error rectification of arXiv:2508.21091 without its sigmoid, which is then a linear
    regression of the error on the prediction; per channel, it is the training-free form of the
    compensation of arXiv:2604.04018.

    Attributes:
        slope: for every step a number, or a list of one number for every channel; 0 where the step is not
            predicted.
        offset: likewise, in the unit of the residual.
    """

    kind: Literal["affine"] = "affine"
    slope: Steps
    offset: Steps

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.slope) != len(self.offset):
            raise ConfigError(
                f"{len(self.offset)} entries and {len(self.slope)} of slope; give one a step of each",
                key="offset",
            )
        widths = {len(entry) for entry in (*self.slope, *self.offset) if isinstance(entry, tuple)}
        if len(widths) > 1:
            raise ConfigError(
                f"lists of {min(widths)} and of {max(widths)} numbers; give one for every channel",
                key="slope",
            )
        return self

    @property
    def num_steps(self) -> int:
        """Number of steps that the tables were made for."""
        return len(self.slope)

    @property
    def channels(self) -> int | None:
        """Length of the lists, or None where every entry is one number for all channels."""
        lists = (len(entry) for entry in (*self.slope, *self.offset) if isinstance(entry, tuple))
        return next(lists, None)

    def at(self, steps: Sequence[int]) -> Affine:
        """Return the tables of a request whose steps take the entries of these steps, in this order."""
        return Affine(slope=tuple(self.slope[i] for i in steps), offset=tuple(self.offset[i] for i in steps))


class Mlp(Document):
    """Adds what a small learned network makes of each token of a predicted residual p.

    What is left is g(p) = p + W2 GELU(W1 LN(p)), the same at every step: it is told no timestep.

    Source: the compensation of arXiv:2604.04018. There it stands at the end of a segment of blocks, at the
    second of two steps; here where a whole stack is predicted, and later skips start from the predictor's
    value, not from g's.

    Attributes:
        weights: safetensors file with `norm.weight`, `norm.bias`, `up.weight`, `up.bias`, `down.weight`,
            `down.bias`. In a preset's file a relative path is looked up beside that file, else from the
            current directory.
        sha256: of the file.
    """

    kind: Literal["mlp"] = "mlp"
    weights: Annotated[str, Field(min_length=1, max_length=4096)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    def beside(self, folder: Path) -> Mlp:
        """Return it with an absolute path; a relative one is looked up in a folder."""
        return self.model_copy(update={"weights": os.path.abspath(folder / self.weights)})

    def seen_from(self, folder: Path) -> Mlp:
        """Return it as a preset in a folder names it: a path relative to it where the file lies below."""
        absolute, root = Path(os.path.abspath(self.weights)), Path(os.path.abspath(folder))
        inside = absolute.is_relative_to(root)
        return self.model_copy(update={"weights": str(absolute.relative_to(root) if inside else absolute)})


Corrector = Annotated[NoCorrector | Affine | Mlp, Field(discriminator="kind")]
