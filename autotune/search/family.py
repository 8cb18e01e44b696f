"""Family: a base policy and the keys of it that are searched; every point is a valid policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from autotune.scoring.sampling import REFERENCE, Sampling
from autotune.search.asked import QUANTILE, SCHEDULE, Planner, Quantile, Schedule
from autotune.search.ranges import Choice, Range, extremes_of, middle_of, whole_numbers
from xslim.errors import ConfigError
from xslim.policy.calibration import Calibration
from xslim.policy.decision import Action
from xslim.policy.document import Document, describe
from xslim.policy.policy import CHANGES, TABLE_SIGNALS, Controller, Indicator, Pattern, Policy
from xslim.policy.preset import load_preset

POLICY = "policy"  # a searched key that stands for the whole policy
REQUEST = "request"  # searched keys below it are no policy keys: they tell how the request is sampled
STEPS, SCHEDULER, SIGMAS = (f"{REQUEST}.{key}" for key in ("num_steps", "scheduler", "sigmas"))
# stands in for the profile's table while a space is checked
FLAT_TABLE = {"x": [0.0, 1.0], "y": [1.0, 1.0]}
Params = Mapping[str, Any]
_Asked = TypeVar("_Asked", bound=Document)


class Family(Document):
    """A base policy, and dotted keys that are searched.

    Attributes:
        base: a policy as in a preset, or the name of a shipped preset.
        params: dotted policy key -> range. `schedule.*` keys make a pattern from the profile, `request.*`
            keys choose the number of steps and the scheduler.
        seeds: points tried first; keys left out take the middle of their range.
    """

    base: dict[str, Any] | str
    params: dict[str, Range]
    seeds: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        middle = self.middle()
        self.build(middle, {}, None)  # every key exists
        if SIGMAS in self.params:
            raise ConfigError("noise levels are not searched; name request.num_steps", key=f"params.{SIGMAS}")
        for key, searched in self.params.items():
            for value in extremes_of(searched):
                self.build({**middle, key: value}, {}, None)
                self.sampling({key: value})
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
        self.sampling(seed)

    def middle(self) -> dict[str, Any]:
        """A point inside every range."""
        return {key: middle_of(searched) for key, searched in self.params.items()}

    def build(
        self, params: Params, calibration: Mapping[str, Calibration], planner: Planner | None
    ) -> Policy:
        """Return the policy of a point.

        Args:
            params: the point.
            calibration: of the profile.
            planner: of the profile, at the point's number of steps; None checks the point only.

        Raises:
            ConfigError: a key is no policy key, or a value is outside what it allows.
        """
        data = _copy(params[POLICY]) if POLICY in params else self._base()
        for key, value in params.items():
            if key != POLICY and not key.startswith(f"{REQUEST}."):
                _put(data, key, value)
        schedule, quantile = _take(data, SCHEDULE, Schedule), _take(data, QUANTILE, Quantile)
        if schedule is not None:  # one letter holds the pattern's place
            data["controller"] = {"kind": "pattern", "steps": Action.FULL.value}
        _normalise_weights(data)
        _calibrate(data, calibration)
        policy = Policy.parse(data)
        if quantile is not None and policy.indicator.follows_decisions:
            raise ConfigError(
                "a profile does not tell changes since the last computed step; search controller.critical, "
                "or leave indicator.compare at previous",
                key=QUANTILE,
            )
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

    def sampling(self, params: Params) -> Sampling:
        """Return how a point is sampled.

        Raises:
            ConfigError: a `request.*` key is unknown, or a value is outside what it allows.
        """
        data: dict[str, Any] = {}
        for key, value in params.items():
            if key.startswith(f"{REQUEST}."):
                _put(data, key, value)
        return _take(data, REQUEST, Sampling) or REFERENCE

    def at(self, sampling: Sampling, reference: int) -> Family | None:
        """Return the family with its `request.*` keys held; None where it cannot be sampled so."""
        params = dict(self.params)
        steps, schedulers = params.get(STEPS), params.get(SCHEDULER)
        if steps is None and sampling.num_steps is not None:
            return None
        if steps is not None:
            allowed = steps.choices if isinstance(steps, Choice) else whole_numbers(steps)
            # the reference's number may stand as itself or as null
            fitting = [n for n in (sampling.steps(reference), sampling.num_steps) if n in allowed]
            if not fitting:
                return None
            params[STEPS] = Choice(choices=(fitting[0],))
        if schedulers is None and sampling.scheduler is not None:
            return None
        if isinstance(schedulers, Choice):
            same = [
                c for c in schedulers.choices if self.sampling({SCHEDULER: c}).scheduler == sampling.scheduler
            ]
            if not same:
                return None
            params[SCHEDULER] = Choice(choices=tuple(same[:1]))
        return self.model_copy(update={"params": params})

    def _base(self) -> dict[str, Any]:
        if not isinstance(self.base, str):
            copied: dict[str, Any] = _copy(self.base)
            return copied
        try:
            return load_preset(self.base).policy.to_data()
        except ConfigError as error:
            raise ConfigError(str(error), key="base") from None


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
    """Give the signals that an online policy reads the profile's maps, unless they keep their own."""
    controller, signals = data.get("controller"), _signals(data)
    if signals is None or not isinstance(controller, Mapping) or controller.get("kind") != "dual-threshold":
        return
    indicator = data.get("indicator", {})
    own = _own_maps(indicator)
    if not calibration:
        for name in TABLE_SIGNALS:
            if name in signals and name not in own:
                _put(data, f"indicator.calibration.{name}", FLAT_TABLE)
        return
    used: dict[str, Any] = {}
    for name in (name for name, weight in signals.items() if weight > 0):
        if name in own:
            used[name] = own[name]
        elif name in calibration and not _follows_decisions(indicator, name):
            used[name] = calibration[name].to_data()
    _put(data, "indicator.calibration", used)


def _follows_decisions(indicator: Mapping[str, Any], name: str) -> bool:
    """Whether a signal compares with the last full step; the profile's map is of the step before."""
    return name in CHANGES and indicator.get("compare") == "computed"


def _own_maps(indicator: Mapping[str, Any]) -> dict[str, Any]:
    """The maps that stay: published polynomials, and those of what the profile does not tell."""
    given = indicator.get("calibration", {})
    if not isinstance(given, Mapping):
        return {}
    return {
        name: found
        for name, found in given.items()
        if _follows_decisions(indicator, name) or (isinstance(found, Mapping) and "polynomial" in found)
    }


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
