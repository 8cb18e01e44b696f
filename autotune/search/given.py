"""Policies that a search is given: published rules, and presets of other searches, remapped to its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, cast

from autotune.search.family import POLICY, Family
from autotune.search.ranges import Choice
from autotune.search.space import SearchSpace
from xslim.errors import ConfigError
from xslim.policy.document import parse_yaml
from xslim.policy.preset import ModelSignature, load_preset
from xslim.policy.schedule import remap

GIVEN = "given"  # name of their family


def with_given(
    space: SearchSpace, presets: Sequence[str], published: bool, model: ModelSignature
) -> SearchSpace:
    """Return a space with one more family: the choice among given policies. The presets are its seeds.

    Args:
        space: the space as it is written.
        presets: files, or names of shipped presets.
        published: whether to add the rules of `published.yaml`.
        model: that is searched; presets of another number of steps are remapped by its noise levels.

    Raises:
        ConfigError: a preset cannot be read, or the space has a family of this name.
    """
    asked = [_remapped(name, model) for name in presets]
    policies = [*asked, *(published_rules() if published else {}).values()]
    if not policies:
        return space
    if GIVEN in space.families:
        raise ConfigError("is the name of the given policies; choose another", key=f"families.{GIVEN}")
    choices = Choice(choices=tuple(policies))
    family = Family(base=policies[0], params={POLICY: choices}, seeds=tuple({POLICY: p} for p in asked))
    return space.model_copy(update={"families": {**space.families, GIVEN: family}})


def published_rules() -> dict[str, dict[str, Any]]:
    """Published settings by name, as policy data."""
    text = (files("autotune.search") / "published.yaml").read_text(encoding="utf-8")
    return dict(cast("Mapping[str, dict[str, Any]]", parse_yaml(text, source="published.yaml")))


def _remapped(name: str, model: ModelSignature) -> dict[str, Any]:
    preset = load_preset(name)
    return remap(preset.policy, model.num_steps, preset.model.sigmas, model.sigmas).to_data()
