"""Recipe: one method of the field as a YAML file: its source, its settings and the knob that is swept."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from autotune.compare.settings import SETTINGS
from autotune.scoring.lesson import LESSONS
from autotune.scoring.sampling import Sampling
from xslim.errors import ConfigError
from xslim.policy.document import Document, suggest
from xslim.policy.policy import Policy

SCHEMA_VERSION = 1
OWN = "autotune"  # the method of our tuned presets; no recipe
FEWER = "fewer-steps"  # the method that all is compared with
CALIBRATING = ("calibrated", "refitted")  # makers that take the recipe's controller, and fill in calibrations
WHOLE = ("sweep", "settings", "learn")  # keys that a family replaces whole
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9.]+)*$", max_length=60)]


# library -> the configurations that are known of it
LIBRARIES = {
    "diffusers": (
        "FasterCacheConfig",
        "FirstBlockCacheConfig",
        "MagCacheConfig",
        "PyramidAttentionBroadcastConfig",
        "SeaCacheConfig",
        "TaylorSeerCacheConfig",
    ),
    "cache-dit": ("DBCacheConfig", "DBPruneConfig"),
}


class Peer(Document):
    """Another library's cache, run live in a process of its own.

    Attributes:
        library: whose.
        config: what of it, such as `FirstBlockCacheConfig` of diffusers.
        arguments: of that configuration.
    """

    library: Literal["diffusers", "cache-dit"]
    config: Annotated[str, Field(min_length=1)]
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = LIBRARIES[self.library]
        if self.config not in known:
            raise ConfigError(f"got {self.config!r}; {suggest(self.config, known)}", key="config")
        return self


class Sweep(Document):
    """The method's own knob.

    Attributes:
        key: dotted key of the recipe, such as `policy.controller.critical` or `settings.share`.
        values: from the best quality to the highest speed, over the published range.
        least: points that are taken at least, for what all others are compared with.
    """

    key: Annotated[str, Field(min_length=1)]
    values: Annotated[tuple[Any, ...], Field(strict=False, min_length=1, max_length=1000)]
    least: Annotated[int, Field(ge=1, le=1000)] = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        for i, value in enumerate(self.values):
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"got {value}, allowed is a finite number", key=f"values.{i}")
        return self

    def points(self, count: int) -> tuple[Any, ...]:
        """Return so many values, evenly taken, first and last among them."""
        count = max(count, self.least)
        if count >= len(self.values):
            return self.values
        last = len(self.values) - 1
        chosen = [round(i * last / max(1, count - 1)) for i in range(count)]
        return tuple(self.values[i] for i in chosen)


class Recipe(Document):
    """A method.

    Attributes:
        method: its name in tables and in `comparison.json`.
        title: how its authors call it.
        source: arXiv id or project.
        published: the settings that its source recommends.
        differs: what is not as in the source, and why.
        make: how points become policies: `policy` takes the recipe's own, the others compute one from the
            profile, see `autotune.compare.makers`.
        settings: of the maker, see `autotune.compare.settings`.
        learn: what is fitted or trained on the model afterwards, in turn, with its settings; see
            `autotune.scoring.learning`.
        policy: keys of a policy, for the maker to complete.
        sampling: `num_steps` and `scheduler`, where they are not the reference's.
        peer: another library's cache, instead of a policy.
        sweep: the knob.
        families: model families that it applies to; empty for all.
        by_family: model family -> recipe keys that differ there.
    """

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    method: Name
    title: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    published: str = ""
    differs: str = ""
    make: str = "policy"
    settings: dict[str, Any] = Field(default_factory=dict)
    learn: dict[str, dict[str, Any]] = Field(default_factory=dict)
    policy: dict[str, Any] | None = None
    sampling: Sampling = Sampling()
    peer: Peer | None = None
    sweep: Sweep
    families: Annotated[tuple[str, ...], Field(strict=False)] = ()
    by_family: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.method == OWN:
            raise ConfigError(
                f"{OWN!r} is the name of the search's own presets; choose another", key="method"
            )
        if self.method == FEWER and (self.make, self.sweep.key) != (FEWER, "settings.share"):
            raise ConfigError(
                "all is compared with these steps: `make: fewer-steps`, and the sweep is of `settings.share`",
                key="sweep.key",
            )
        _fits(SETTINGS, "make", self.make, "settings", self.settings)
        for name, settings in self.learn.items():
            _fits(LESSONS, "learn", name, f"learn.{name}", settings)
        self._check_policy()
        names = [self.at(value).point for value in self.sweep.values]
        twice = next((i for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise ConfigError(
                f"got {self.sweep.values[twice]!r} twice, or two that are named alike",
                key=f"sweep.values.{twice}",
            )
        for family in self.by_family:
            self.of_family(family)
        return self

    def _check_policy(self) -> None:
        """Refuse a policy that could not run, as far as that is known before its maker completes it."""
        if self.peer is not None:
            beside = [key for key in ("policy", "learn", "settings") if getattr(self, key)]
            if beside or self.make != "policy":
                raise ConfigError("a peer brings its own cache; leave this out", key=(*beside, "make")[0])
            return
        data = dict(self.policy or {})
        if self.make not in (*CALIBRATING, "policy"):
            data["controller"] = {"kind": "pattern", "steps": "F"}
        if self.make in CALIBRATING:
            data["indicator"] = _calibrated(data.get("indicator", {}))
        try:
            Policy.parse(data)
        except ConfigError as error:
            raise error.at(key=f"policy.{error.key}") from None

    def at(self, value: Any) -> Recipe:
        """Return the recipe with its knob at a value; it has that one point only.

        Raises:
            ConfigError: the knob is no key of the recipe, or does not take the value.
        """
        data = {**super().to_data(), "sweep": {"key": self.sweep.key, "values": [value]}}
        *parents, last = self.sweep.key.split(".")
        at = data
        for name in parents:
            child = at.get(name)
            if not isinstance(child, Mapping):
                raise self._no_such_key(name, at)
            at[name] = dict(child)
            at = at[name]
        if last not in at:
            raise self._no_such_key(last, at)
        if at[last] == value and len(self.sweep.values) == 1:
            return self
        at[last] = value
        return Recipe.parse(data)

    def _no_such_key(self, name: str, there: Mapping[str, Any]) -> ConfigError:
        problem = f"got {self.sweep.key!r}, which the recipe does not have; {suggest(name, there)}"
        return ConfigError(problem, key="sweep.key")

    def of_family(self, family: str) -> Recipe:
        """Return the recipe as it is for a family of models."""
        changes = self.by_family.get(family)
        if not changes:
            return self
        data = _merged(super().to_data(), changes)
        data["by_family"] = {}
        return Recipe.parse(data)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recipe from its file, which is named as its method.

        Raises:
            ConfigError: it is at fault.
        """
        return super().load(path).named(Path(path))

    def named(self, path: Path) -> Self:
        """Return the recipe.

        Raises:
            ConfigError: the file has not its method's name.
        """
        if self.method != path.stem:
            raise ConfigError(
                f"got {self.method!r}; name it as its file, {path.stem!r}", key="method", source=str(path)
            )
        return self

    @property
    def config(self) -> dict[str, Any]:
        """The knob and its value, of a recipe with one point."""
        return {self.sweep.key.rpartition(".")[2]: self.sweep.values[0]}

    @property
    def point(self) -> str:
        """Name of a recipe's one point, fit for a file."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.method}-{self.sweep.values[0]}").strip("-")


def _calibrated(indicator: Any) -> Any:
    """An indicator's data with a calibration for each of its signals; what is no indicator as it is."""
    signals = indicator.get("signals", {}) if isinstance(indicator, Mapping) else None
    if not isinstance(signals, Mapping):
        return indicator
    ready = {name: {"x": [0.0, 1.0], "y": [0.0, 1.0]} for name in signals}
    return {**indicator, "calibration": {**ready, **indicator.get("calibration", {})}}


def _fits(
    known: Mapping[str, type[Document]], key: str, name: str, under: str, settings: Mapping[str, Any]
) -> None:
    """Refuse an unknown maker or learner, and settings that it does not have."""
    if name not in known:
        raise ConfigError(f"got {name!r}; {suggest(name, known)}", key=key)
    try:
        known[name].parse(settings)
    except ConfigError as error:
        raise error.at(key=f"{under}.{error.key}") from None


def _merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys of one mapping over those of another; lists are taken whole."""
    found = dict(data)
    for key, value in changes.items():
        under = found.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping) and key not in WHOLE:
            value = _merged(under, value)
        found[key] = value
    return found
