"""What set metrics give for the uncached model alone, so that a reader can tell a FID from its bias."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from autotune.scoring.measurement import FloatArray, Measurement
from autotune.scoring.metrics import METRICS, ReferenceSet
from autotune.scoring.scores import set_warnings
from autotune.scoring.statistics import NullRange, interval_warnings, null_range
from autotune.search.scorer import Scorer

Floors = Mapping[str, NullRange]


def uncached_floors(baseline: Measurement, scorer: Scorer) -> dict[str, NullRange]:
    """Compare uncached pictures with others: so many as were measured, against the rest of the reference.

    Where the reference is the held-out uncached pictures themselves, or statistics without features, halves
    of the held-out pictures are compared.

    Args:
        baseline: the uncached model's measurement.
        scorer: knows the references.
    """
    found = {}
    for name, rows in baseline.quality.features.items():
        if name not in scorer.references:
            continue
        reference = scorer.references[name]
        given = reference.rows if isinstance(reference, ReferenceSet) else reference
        pool = rows if given is None else given  # None: only statistics are known
        known = null_range(partial(_value, name), pool, len(rows))
        if known is not None:
            found[name] = known
    return found


def _value(name: str, features: FloatArray, reference: FloatArray) -> float:
    return float(METRICS[name].function(features, reference))


def floor_entry(floor: NullRange) -> dict[str, Any]:
    """How summaries and presets hold a floor."""
    ends = [floor.low, floor.high]
    return {"value": floor.value, "range": ends, "n": floor.n, "against": floor.against}


def notes(baseline: Measurement, floors: Floors, labels: Mapping[str, str]) -> list[str]:
    """What must be said of a measurement's numbers: one line each.

    Args:
        baseline: the uncached model on the same cases.
        floors: of its set metrics.
        labels: metric -> printed name.
    """
    quality = baseline.quality
    between = [
        f"{labels.get(name, name)}: two samples of the reference ({floor.n} and {floor.against} pictures) "
        f"have {floor.value:.3g} ({floor.low:.3g} to {floor.high:.3g})"
        for name, floor in floors.items()
    ]
    return [*interval_warnings(len(quality.cases)), *set_warnings(quality.features, labels), *between]
