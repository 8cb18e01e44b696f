"""Schedulers that may take the place of a pipeline's own."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers

from autotune.scoring.sampling import SchedulerChoice
from xslim.errors import ConfigError
from xslim.policy.document import suggest

KEY = "request.scheduler"
STEPS = 20  # at which a scheduler is tried
# diffusers names no schedulers compatible with the flow-matching one; these solve the same equation from the
# same noise levels, once they are told what the model predicts
OF_FLOWS: Mapping[str, Mapping[str, Any]] = {
    "UniPCMultistepScheduler": {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
}
FLOW = "FlowMatchEulerDiscreteScheduler"


def build_scheduler(own: Any, chosen: SchedulerChoice) -> Any:
    """Return a scheduler with the settings of the pipeline's own one but for those that are chosen.

    Raises:
        ConfigError: as `scheduler_class`.
    """
    found = scheduler_class(type(own), chosen)
    settings, taken = dict(chosen.config), own.config
    if type(own).__name__ == FLOW and found is not type(own):
        known = inspect.signature(found.__init__).parameters
        taken = {key: value for key, value in own.config.items() if key in known or key.startswith("_")}
        settings = {**OF_FLOWS[chosen.name], "flow_shift": own.config["shift"], **settings}
    try:
        return found.from_config(taken, **settings)
    except (TypeError, ValueError, NotImplementedError) as error:  # what diffusers raises of a bad setting
        problem = " ".join(str(error).split())
        raise ConfigError(f"{chosen} cannot be made: {problem}", key=KEY) from None


def scheduler_class(own: Any, chosen: SchedulerChoice) -> Any:
    """Return the class of a choice.

    Args:
        own: class of the pipeline's scheduler.
        chosen: the choice.

    Raises:
        ConfigError: it solves another equation than the pipeline's own, it calls the model another number of
            times a step, or it has no such setting.
    """
    compatible = {found.__name__: found for found in (own, *own._get_compatibles())}
    if own.__name__ == FLOW:
        compatible |= {name: getattr(diffusers, name) for name in OF_FLOWS}
    compatible = {name: found for name, found in compatible.items() if _order(found) == own.order}
    if chosen.name not in compatible:
        raise ConfigError(
            f"got {chosen.name!r}, which cannot take the place of {own.__name__}; "
            f"{suggest(chosen.name, compatible)}",
            key=KEY,
        )
    found = compatible[chosen.name]
    settings = set(inspect.signature(found.__init__).parameters) - {"self"}
    for name in chosen.config:
        if name not in settings:
            raise ConfigError(
                f"{chosen.name} has no such setting; {suggest(name, settings)}", key=f"{KEY}.config.{name}"
            )
    return found


def check_choices(path: str, choices: Sequence[tuple[str, SchedulerChoice]], source: str) -> None:
    """Refuse schedulers that cannot take the place of a local folder's; a hub id's are known once loaded.

    Args:
        path: a diffusers folder, or a hub id.
        choices: (key of the search space, choice).
        source: file of the search space.

    Raises:
        ConfigError: as `scheduler_class`, with the key.
    """
    own = _own_class(path) if choices else None
    if own is None:
        return
    for key, chosen in choices:
        try:
            scheduler_class(own, chosen)
            if chosen.name == own.__name__ and not chosen.config:
                raise ConfigError("got the pipeline's own scheduler; write null for it")
            _check_steps(build_scheduler(own.from_config(_config(path)), chosen), chosen)
        except ConfigError as error:
            raise ConfigError(error.problem, key=key, source=source) from None


def _check_steps(built: Any, chosen: SchedulerChoice) -> None:
    """Refuse a scheduler that takes another number of steps than it is asked for, as PNDM does."""
    try:
        built.set_timesteps(STEPS)
    except (TypeError, ValueError):  # some need more than a number of steps, which the pipeline gives
        return
    if len(built.timesteps) != STEPS:
        raise ConfigError(
            f"got {chosen.name}, which takes {len(built.timesteps)} steps where {STEPS} are asked for; "
            "choose another"
        )


def _own_class(path: str) -> Any | None:
    """The scheduler class of a local diffusers folder; None where only loading it tells."""
    return getattr(diffusers, str(_config(path).get("_class_name")), None)


def _config(path: str) -> dict[str, Any]:
    """The scheduler's config of a local folder; empty where there is none."""
    try:
        found = json.loads((Path(path) / "scheduler" / "scheduler_config.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _order(found: Any) -> int | None:
    """Calls of the model a step; None for a scheduler whose package is not installed."""
    try:
        order: int = found.order
    except ImportError:
        return None
    return order
