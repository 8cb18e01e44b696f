"""SearchSpace: what is searched, as YAML; every sampled point is a valid policy.

A space has one or more families, such as online thresholds and static patterns. Each family has a base
policy and searched keys; which family a point belongs to is itself searched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Annotated, Any, Protocol

from pydantic import Field, model_validator

from autotune.scoring.sampling import Sampling, SchedulerChoice
from autotune.search.asked import Planner
from autotune.search.family import SCHEDULER, STEPS, Family, Params
from autotune.search.ranges import Choice, FloatRange, IntRange, middle_of, spread_of, whole_numbers
from xslim.policy.calibration import Calibration
from xslim.policy.document import Document
from xslim.policy.policy import Policy

SCHEMA_VERSION = 1
FAMILY = "family"


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
            value = params.get(key, middle_of(searched))
            if isinstance(searched, Choice):
                value = json.dumps(value, sort_keys=True)
            else:
                value = min(max(value, searched.low), searched.high)
            encoded[f"{family}/{key}"] = value
        return encoded

    def at(self, sampling: Sampling, reference: int) -> SearchSpace:
        """Return the part of the space that is sampled so; families that cannot be are left out.

        Args:
            sampling: how.
            reference: denoising steps of the reference configuration.
        """
        found = {name: family.at(sampling, reference) for name, family in self.families.items()}
        return self.model_copy(update={"families": {k: f for k, f in found.items() if f is not None}})

    def only(self, names: Set[str]) -> SearchSpace:
        """Return the space with these families only."""
        found = {name: family for name, family in self.families.items() if name in names}
        return self.model_copy(update={"families": found})

    def samplings(self, reference: int) -> list[Sampling]:
        """Return ways to sample with the pipeline's own scheduler: the reference's and a spread of steps.

        Those that no family allows are left out.
        """
        counts = {reference}
        for family in self.families.values():
            if STEPS in family.params:
                counts |= set(spread_of(whole_numbers(family.params[STEPS])))
        found = [
            Sampling(num_steps=n).against(reference) for n in sorted(counts, key=lambda n: n != reference)
        ]
        return [one for one in found if self.at(one, reference).families]

    @property
    def schedulers(self) -> list[tuple[str, SchedulerChoice]]:
        """(key, choice) of every scheduler that may take the place of the pipeline's own."""
        found = []
        for name, family in self.families.items():
            for i, choice in enumerate(getattr(family.params.get(SCHEDULER), "choices", ())):
                chosen = family.sampling({SCHEDULER: choice}).scheduler
                if chosen is not None:
                    found.append((f"families.{name}.params.{SCHEDULER}.choices.{i}", chosen))
        return found

    def policy(
        self, family: str, params: Params, calibration: Mapping[str, Calibration], planner: Planner | None
    ) -> Policy:
        """Return the policy of a point."""
        return self.families[family].build(params, calibration, planner)
