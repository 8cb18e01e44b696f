"""SearchSpace: what is searched, as YAML; every sampled point is a valid policy.

A space has one or more families, such as online thresholds and static patterns. Each family has a base
policy and searched keys; which family a point belongs to is itself searched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import Field, model_validator

from autotune.search.asked import QUANTILE, SCHEDULE, Planner, Quantile, Schedule
from xslim.errors import ConfigError
from xslim.policy.calibration import Calibration
from xslim.policy.decision import Action
from xslim.policy.document import Document, describe
from xslim.policy.policy import TABLE_SIGNALS, Controller, Indicator, Pattern, Policy
from xslim.policy.preset import load_preset

SCHEMA_VERSION = 1
FAMILY = "family"
POLICY = "policy"  # a searched key that stands for the whole policy
# stands in for the profile's table while a space is checked
FLAT_TABLE = {"x": [0.0, 1.0], "y": [1.0, 1.0]}
Scalar = bool | int | float | str | None
Params = Mapping[str, Any]
_Asked = TypeVar("_Asked", bound=Document)


class FloatRange(Document):
    """A float between low and high."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ConfigError(
                f"low {self.low:g}, high {self.high:g}: low <= high, and above 0 with log", key="low"
            )
        return self


class IntRange(Document):
    """A whole number between low and high."""

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ConfigError(
                f"low {self.low}, high {self.high}: low <= high, and above 0 with log", key="low"
            )
        return self


class Choice(Document):
    """One of some values; a value may be a mapping or a list."""

    type: Literal["categorical"] = "categorical"
    choices: Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]

    @property
    def encoded(self) -> tuple[str, ...]:
        """The choices as Optuna stores them: compact JSON."""
        return tuple(json.dumps(choice, sort_keys=True) for choice in self.choices)


Range = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


class Sampler(Protocol):
    """The part of Optuna's Trial that a space uses."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Suggest a float."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Suggest a whole number."""
        ...

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Suggest a choice."""
        ...


class Family(Document):
    """A base policy, and dotted keys that are searched.

    Attributes:
        base: a policy as in a preset, or the name of a shipped preset.
        params: dotted policy key -> range. `schedule.*` keys make a pattern from the profile.
        seeds: points tried first; keys left out take the middle of their range.
    """

    base: dict[str, Any] | str
    params: dict[str, Range]
    seeds: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        middle = self.middle()
        self.build(middle, {}, None)  # every key exists
        for key, searched in self.params.items():
            for value in _extremes(searched):
                self.build({**middle, key: value}, {}, None)
        for i, seed in enumerate(self.seeds):
            try:
                self._check_seed(seed)
            except ConfigError as error:
                raise error.at(key=f"seeds.{i}.{error.key}") from None
        return self

    def _check_seed(self, seed: Params) -> None:
        for key, value in seed.items():
            searched = self.params.get(key)
            if searched is None:
                raise ConfigError("is not searched; name a key of params", key=key)
            if isinstance(searched, Choice) and value not in searched.choices:
                raise ConfigError(f"got {describe(value)}, which is none of its choices", key=key)
        self.build({**self.middle(), **seed}, {}, None)

    def middle(self) -> dict[str, Any]:
        """A point inside every range."""
        return {key: _middle(searched) for key, searched in self.params.items()}

    def build(
        self, params: Params, calibration: Mapping[str, Calibration], planner: Planner | None
    ) -> Policy:
        """Return the policy of a point.

        Raises:
            ConfigError: a key is no policy key, or a value is outside what it allows.
        """
        data = _copy(params[POLICY]) if POLICY in params else self._base()
        for key, value in params.items():
            if key != POLICY:
                _put(data, key, value)
        schedule, quantile = _take(data, SCHEDULE, Schedule), _take(data, QUANTILE, Quantile)
        if schedule is not None:  # one letter holds the pattern's place
            data["controller"] = {"kind": "pattern", "steps": Action.FULL.value}
        _normalise_weights(data)
        _calibrate(data, calibration)
        policy = Policy.parse(data)
        if planner is None:
            return policy
        if schedule is not None:
            controller: Controller = Pattern(steps=planner.pattern(policy, schedule))
        elif quantile is not None:
            critical = planner.threshold(policy, quantile.critical)
            controller = policy.controller.model_copy(update={"critical": critical})
        else:
            return policy
        return policy.model_copy(update={"controller": controller})

    def _base(self) -> dict[str, Any]:
        if not isinstance(self.base, str):
            copied: dict[str, Any] = _copy(self.base)
            return copied
        try:
            return load_preset(self.base).policy.to_data()
        except ConfigError as error:
            raise ConfigError(str(error), key="base") from None


class SearchSpace(Document):
    """Families of policies. A file with `base` and `params` at the top is one family."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    families: dict[str, Family] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_family(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "families" not in data and "params" in data:
            inner = {key: data[key] for key in ("base", "params", "seeds") if key in data}
            rest = {key: value for key, value in data.items() if key not in inner}
            return {**rest, "families": {"default": inner}}
        return data

    def sample(self, trial: Sampler) -> tuple[str, dict[str, Any]]:
        """Ask Optuna's trial for a point; return its family and params."""
        names = list(self.families)
        family = trial.suggest_categorical(FAMILY, names) if len(names) > 1 else names[0]
        params = {}
        for key, searched in self.families[family].params.items():
            name = f"{family}/{key}"
            if isinstance(searched, FloatRange):
                params[key] = trial.suggest_float(name, searched.low, searched.high, log=searched.log)
            elif isinstance(searched, IntRange):
                params[key] = trial.suggest_int(name, searched.low, searched.high, log=searched.log)
            else:
                params[key] = json.loads(trial.suggest_categorical(name, searched.encoded))
        return family, params

    def encode(self, family: str, params: Params) -> dict[str, Any]:
        """Return Optuna's params of a point, for `enqueue_trial`; values are clipped into their ranges."""
        encoded: dict[str, Any] = {FAMILY: family} if len(self.families) > 1 else {}
        for key, searched in self.families[family].params.items():
            value = params.get(key, _middle(searched))
            if isinstance(searched, Choice):
                value = json.dumps(value, sort_keys=True)
            else:
                value = min(max(value, searched.low), searched.high)
            encoded[f"{family}/{key}"] = value
        return encoded

    def policy(
        self, family: str, params: Params, calibration: Mapping[str, Calibration], planner: Planner | None
    ) -> Policy:
        """Return the policy of a point."""
        return self.families[family].build(params, calibration, planner)


def _middle(searched: FloatRange | IntRange | Choice) -> Any:
    if isinstance(searched, Choice):
        return searched.choices[0]
    if isinstance(searched, IntRange):
        return (searched.low + searched.high) // 2
    return (searched.low * searched.high) ** 0.5 if searched.log else (searched.low + searched.high) / 2


def _extremes(searched: FloatRange | IntRange | Choice) -> tuple[Any, ...]:
    return searched.choices if isinstance(searched, Choice) else (searched.low, searched.high)


def _take(data: dict[str, Any], part: str, kind: type[_Asked]) -> _Asked | None:
    """Take what is asked of the profile out of a policy's data."""
    if part not in data:
        return None
    try:
        return kind.parse(data.pop(part))
    except ConfigError as error:
        raise error.at(key=f"{part}.{error.key}") from None


def _signals(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The signals of a policy's data, as given or by default; None where the data is no valid policy."""
    indicator = data.get("indicator", {})
    signals = indicator.get("signals", Indicator().signals) if isinstance(indicator, Mapping) else None
    valid = isinstance(signals, Mapping) and all(
        isinstance(w, int | float) and w >= 0 for w in signals.values()
    )
    return signals if valid else None


def _normalise_weights(data: dict[str, Any]) -> None:
    """Signal weights sum to 1; all zero means equal weights."""
    signals = _signals(data)
    if signals and "signals" in data.get("indicator", {}):
        total = sum(signals.values())
        data["indicator"]["signals"] = {
            name: (weight / total if total > 0 else 1.0 / len(signals)) for name, weight in signals.items()
        }


def _calibrate(data: dict[str, Any], calibration: Mapping[str, Calibration]) -> None:
    """Give the signals that an online policy reads their maps from the profile."""
    controller, signals = data.get("controller"), _signals(data)
    if signals is None or not isinstance(controller, Mapping) or controller.get("kind") != "dual-threshold":
        return
    if calibration:
        used = {
            name: calibration[name].to_data() for name, w in signals.items() if w > 0 and name in calibration
        }
        _put(data, "indicator.calibration", used)
        return
    for name in TABLE_SIGNALS:
        if name in signals:
            _put(data, f"indicator.calibration.{name}", FLAT_TABLE)


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    at = data
    for name in parents:
        at = at.setdefault(name, {})
        if not isinstance(at, dict):
            raise ConfigError(f"{name} holds a value, not keys", key=key)
    at[last] = value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, list | tuple) else value
