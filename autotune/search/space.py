"""SearchSpace: what is searched, as YAML; every sampled point is a valid policy.

A space has one or more families, such as online thresholds and static patterns. Each family has a base
policy and searched keys; which family a point belongs to is itself searched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from xslim.errors import ConfigError
from xslim.policy.calibration import Calibration
from xslim.policy.document import Document
from xslim.policy.policy import Policy, Predictor
from xslim.policy.preset import load_preset

SCHEMA_VERSION = 1
FAMILY = "family"
# searched keys that are not policy keys: they ask the profile for a schedule
SCHEDULE_KEYS = ("schedule.full_steps", "schedule.refreshes", "schedule.polish")
Scalar = bool | int | float | str | None
Params = Mapping[str, Any]


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


class Planner(Protocol):
    """Makes schedules from a profile; see `autotune.search.schedules.Scheduler`."""

    def pattern(self, predictor: Predictor, full_steps: int, refreshes: int, polish: str) -> str:
        """Return one letter a step."""
        ...


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
        for i, seed in enumerate(self.seeds):
            for key in seed:
                if key not in self.params:
                    raise ConfigError(f"{key} is not searched; name a key of params", key=f"seeds.{i}")
        for key in self.params:
            if key.startswith("schedule.") and key not in SCHEDULE_KEYS:
                raise ConfigError(f"unknown; allowed: {', '.join(SCHEDULE_KEYS)}", key=f"params.{key}")
        self.build(self.middle(), {}, None)  # every key exists, every range is allowed
        for end in ("low", "high"):
            self.build({k: getattr(r, end, None) for k, r in self.params.items()} | self._choices(), {}, None)
        return self

    def _choices(self) -> dict[str, Any]:
        return {key: r.choices[-1] for key, r in self.params.items() if isinstance(r, Choice)}

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
        base = self.base
        data: dict[str, Any] = load_preset(base).policy.to_data() if isinstance(base, str) else _copy(base)
        for key, value in params.items():
            if key not in SCHEDULE_KEYS:
                _put(data, key, value)
        _normalise_weights(data)
        if any(key in SCHEDULE_KEYS for key in self.params):
            predictor = Predictor.parse(data.get("predictor", {}))
            data["controller"] = {"kind": "pattern", "steps": _schedule(params, predictor, planner)}
        if calibration and data.get("controller", {}).get("kind") == "dual-threshold":
            used = {n for n, w in data.get("indicator", {}).get("signals", {}).items() if w > 0}
            data.setdefault("indicator", {})["calibration"] = {
                name: c.to_data() for name, c in calibration.items() if name in used
            }
        elif not calibration:  # while a space is checked there is no profile yet
            _without_table(data)
        return Policy.parse(data)


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


def _schedule(params: Params, predictor: Predictor, planner: Planner | None) -> str:
    if planner is None:
        return "F"
    return planner.pattern(
        predictor,
        int(params.get("schedule.full_steps", 1)),
        int(params.get("schedule.refreshes", 0)),
        str(params.get("schedule.polish", "B")),
    )


def _normalise_weights(data: dict[str, Any]) -> None:
    """Signal weights sum to 1; all zero means equal weights."""
    signals = data.get("indicator", {}).get("signals")
    if not signals or not all(isinstance(w, int | float) and w >= 0 for w in signals.values()):
        return
    total = sum(signals.values())
    data["indicator"]["signals"] = {
        name: (weight / total if total > 0 else 1.0 / len(signals)) for name, weight in signals.items()
    }


def _without_table(data: dict[str, Any]) -> None:
    indicator = data.get("indicator")
    if indicator and "step_table" in indicator.get("signals", {}):
        flat = {"x": [0.0, 1.0], "y": [1.0, 1.0]}
        indicator.setdefault("calibration", {})["step_table"] = flat


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    at = data
    for name in parents:
        at = at.setdefault(name, {})
    at[last] = value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, list | tuple) else value
