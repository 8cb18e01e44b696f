"""Policy: everything that decides what is computed, reused or predicted. Keys as in a preset file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from xslim.errors import ConfigError
from xslim.policy.decision import Action
from xslim.policy.document import UNWRITTEN, Document
from xslim.policy.indicator import CHANGES as CHANGES
from xslim.policy.indicator import RESIDUALS_READ as RESIDUALS_READ
from xslim.policy.indicator import SIGNALS as SIGNALS
from xslim.policy.indicator import TABLE_SIGNALS as TABLE_SIGNALS
from xslim.policy.indicator import Compare as Compare
from xslim.policy.indicator import Indicator as Indicator
from xslim.policy.prediction import Affine, Corrector
from xslim.policy.prediction import Predictor as Predictor
from xslim.policy.refresh import BlockReuse as BlockReuse
from xslim.policy.refresh import KindThresholds as KindThresholds
from xslim.policy.refresh import TokenReuse as TokenReuse

Unit = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0, le=10_000)]

LETTERS = "".join(Action)
REFRESHES = (Action.BLOCK, Action.TOKEN)
REUSES = {"skip": Action.SKIP, "block": Action.BLOCK, "token": Action.TOKEN}  # by their names in lists
Between = Annotated[
    tuple[Literal["skip", "token", "block"], ...], Field(strict=False, min_length=1, max_length=10_000)
]


class Relief(Document):
    """Share of the accumulated error that a refresh removes; 0 none, 1 like a full step."""

    block: Unit = 0.5
    token: Unit = 0.5


class DualThreshold(Document):
    """Push then polish: skip below the warning line, refresh up to the critical one, then compute.

    Source: arXiv:2512.12604; the online error estimate is ours (the published code has none).
    """

    kind: Literal["dual-threshold"] = "dual-threshold"
    critical: NonNegative
    warning_fraction: Unit = 0.6
    warmup: Annotated[int, Field(ge=1, le=10_000)] = 3
    cooldown: Count = 1
    max_consecutive_skips: Annotated[int, Field(ge=1, le=10_000)] | None = 6
    max_consecutive_reuses: Annotated[int, Field(ge=1, le=10_000)] | None = None  # skips and refreshes
    polish: Annotated[tuple[Literal["block", "token"], ...], Field(strict=False)] = ("block", "token")
    relief: Relief = Relief()

    @property
    def warning(self) -> float:
        """The line above which a step is refreshed instead of skipped."""
        return self.critical * self.warning_fraction


class Pattern(Document):
    """A static schedule: one letter a step, F full, B block refresh, T token refresh, `.` skip."""

    kind: Literal["pattern"] = "pattern"
    steps: Annotated[str, Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = [letter for letter in self.steps if letter not in LETTERS]
        if wrong:
            raise ConfigError(
                f"got the letter {wrong[0]!r}; allowed are F (full), B (block), T (token), . (skip)",
                key="steps",
            )
        before = self.steps.partition(Action.FULL)[0]
        early = [i for i, letter in enumerate(before) if letter in REFRESHES]
        if early:
            raise ConfigError(
                f"step {early[0]} is {before[early[0]]!r} before any full step, with nothing to reuse; "
                "put an F before it",
                key="steps",
            )
        return self

    @property
    def unclosed(self) -> int | None:
        """The first refresh that no full step follows, or None."""
        after = self.steps.rfind(Action.FULL) + 1
        return next((i for i in range(after, len(self.steps)) if self.steps[i] in REFRESHES), None)


class Interval(Document):
    """Compute every n-th step after the warm-up. Source: FORA, arXiv:2407.01425.

    Attributes:
        every: steps from one computed step to the next.
        warmup: steps at the beginning that are all computed.
        cooldown: likewise at the end.
        between: what the steps after a computed one do, in turn (ToCa, arXiv:2410.05317, refreshes tokens;
            DuCa, arXiv:2412.18911, refreshes tokens and skips by turns).
    """

    kind: Literal["interval"] = "interval"
    every: Annotated[int, Field(ge=1, le=10_000)]
    warmup: Annotated[int, Field(ge=1, le=10_000)] = 1
    cooldown: Count = 0
    between: Annotated[Between, UNWRITTEN] = ("skip",)

    def action(self, step: int, num_steps: int) -> Action:
        """What a step of a request does."""
        behind = (step - self.warmup + 1) % self.every  # steps since the last computed one
        if step < self.warmup or step >= num_steps - self.cooldown or behind == 0:
            return Action.FULL
        return REUSES[self.between[(behind - 1) % len(self.between)]]

    @property
    def reuses(self) -> frozenset[Action]:
        """What is done between two computed steps."""
        return frozenset(REUSES[name] for name in self.between[: self.every - 1])


class Table(Document):
    """A step x block table, 1 = compute. Source of the form: ECAD, arXiv:2506.15682."""

    kind: Literal["table"] = "table"
    blocks: Annotated[
        tuple[Annotated[tuple[Annotated[int, Field(ge=0, le=1)], ...], Field(strict=False)], ...],
        Field(strict=False, min_length=1, max_length=10_000),
    ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        widths = {len(row) for row in self.blocks}
        if len(widths) != 1 or 0 in widths:
            raise ConfigError(
                f"rows of {sorted(widths)} entries; every step needs one 0 or 1 for each block",
                key="blocks",
            )
        return self


Controller = Annotated[DualThreshold | Pattern | Interval | Table, Field(discriminator="kind")]


class Guards(Document):
    """Rules that force a full step whatever the estimate says.

    Attributes:
        sigma_windows: [low, high] ranges of sigma where every step is full.
        on_nonfinite: a NaN or infinite signal forces a full step, and is counted.
    """

    sigma_windows: Annotated[
        tuple[Annotated[tuple[NonNegative, NonNegative], Field(strict=False)], ...], Field(strict=False)
    ] = ()
    on_nonfinite: Literal["full"] = "full"


class Policy(Document):
    """What the runtime does at every step of a request.

    Attributes:
        parity: `authors` follows the released code of X-Slim (arXiv:2512.12604) where ours differs on
            purpose: tokens that a T step leaves out keep the previous step's output instead of the
            prediction, tokens are chosen by change alone, without an age bonus, and their number is
            N - int((1 - budget) * N).

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong type or out of range.
    """

    controller: Controller
    indicator: Indicator = Field(default_factory=Indicator)
    block: BlockReuse = Field(default_factory=BlockReuse)
    token: TokenReuse = TokenReuse()
    predictor: Predictor = Predictor()
    corrector: Corrector | None = None
    guards: Guards = Guards()
    batch: Literal["per-sample"] = "per-sample"
    parity: Literal["authors"] | None = None

    @model_validator(mode="after")
    def _check_parity(self) -> Self:
        if self.parity is None or not isinstance(self.controller, Pattern):
            return self
        step = self.controller.unclosed
        if step is not None:
            raise ConfigError(
                f"step {step} is {self.controller.steps[step]!r} and no full step follows, which parity with "
                "the authors needs; put an F after it or leave parity out",
                key="controller.steps",
            )
        return self

    @model_validator(mode="after")
    def _check_corrector(self) -> Self:
        steps = self.num_steps
        if isinstance(self.corrector, Affine) and steps != self.corrector.num_steps:
            raise ConfigError(
                f"{self.corrector.num_steps} entries; the {self.controller.kind} has {steps} steps, "
                "give one entry for each",
                key="corrector.slope",
            )
        return self

    @classmethod
    def from_pattern(
        cls,
        steps: str,
        *,
        token_ratio: float = 0.5,
        block_threshold: float | Mapping[str, float] = 1.5,
        start_block: int = 3,
        predictor: str | Mapping[str, Any] | Predictor = "hold",
    ) -> Policy:
        """Return a static schedule, one letter a step.

        Args:
            steps: F full, B block refresh, T token refresh, `.` skip.
            token_ratio: share of the image tokens recomputed at a T step.
            block_threshold: depth-accumulated mean |h_out - h_in| below which blocks are replayed.
            start_block: blocks 0..start_block of each kind are always recomputed.
            predictor: a kind such as "hold" or "newton", or its keys.

        Raises:
            ConfigError: a letter or a value is not allowed.
        """
        if isinstance(predictor, str):
            predictor = {"kind": predictor}
        threshold = dict(block_threshold) if isinstance(block_threshold, Mapping) else block_threshold
        return cls.parse(
            {
                "controller": {"kind": "pattern", "steps": steps},
                "block": {"threshold": threshold, "start_block": start_block},
                "token": {"budget": token_ratio},
                "predictor": predictor if isinstance(predictor, Predictor) else dict(predictor),
            }
        )

    @property
    def num_steps(self) -> int | None:
        """Number of steps that the policy was written for, or None when it fits any number."""
        if isinstance(self.controller, Pattern):
            return len(self.controller.steps)
        if isinstance(self.controller, Table):
            return len(self.controller.blocks)
        return self.corrector.num_steps if isinstance(self.corrector, Affine) else None

    @property
    def signals(self) -> tuple[str, ...]:
        """Signals that have to be measured; none for the static controllers."""
        return self.indicator.used if isinstance(self.controller, DualThreshold) else ()

    @property
    def history(self) -> int:
        """Number of computed residuals that its parts read."""
        return max([self.predictor.history, *(RESIDUALS_READ.get(name, 1) for name in self.signals)])
