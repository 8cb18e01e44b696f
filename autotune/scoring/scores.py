"""Applying the metrics: values of cases and features in a worker, set metrics in the driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.scoring.drawn import Drawn
from autotune.scoring.metrics import METRICS, Inputs, Kind, Metric, ReferenceSet, View
from autotune.scoring.metrics.inputs import clip_chunks
from autotune.scoring.nets.loaded import MetricNets
from autotune.scoring.nets.seen import PictureNet, Seen
from xslim.errors import ConfigError

SETS = tuple(name for name, metric in METRICS.items() if metric.kind is Kind.SET)
CHUNK_PIXELS = 2**20  # of pictures in a pass; fixed, so that a value does not move with the caller's batch

Values = dict[str, NDArray[np.float64]]


@torch.no_grad()
def paired_values(
    drawn: Drawn, reference: Drawn, nets: MetricNets, prompts: Sequence[int | str] = ()
) -> tuple[Values, Values]:
    """Compare what was drawn with the uncached output of the same cases.

    Metrics that do not apply (too small pictures, no clip, no network) are absent. The value of a clip is
    the mean over its frames, and so are its features.

    Args:
        drawn: pictures or clips of n cases, and their latents.
        reference: the uncached ones.
        nets: networks of the metrics.
        prompts: one a case, for metrics that judge a picture by its prompt.

    Returns:
        Metric -> [n]; set metric -> features [n, d].

    Raises:
        ConfigError: shapes differ, values are out of range, or a network cannot take the pictures.
    """
    if drawn.images.shape != reference.images.shape:
        raise ConfigError(
            f"got shape {list(reference.images.shape)}, need that of images, {list(drawn.images.shape)}",
            key="reference",
        )
    rows: Values = {}
    features: Values = {}
    for view in View:
        pass_ = _Pass(view, drawn.images, nets, prompts)
        pass_.run(drawn.images, reference.images)
        rows |= pass_.rows()
        features |= pass_.features()
    if drawn.latents.numel():
        for metric in METRICS.values():
            if metric.inputs is Inputs.LATENTS:
                rows[metric.name] = _array(metric.function(drawn.latents, reference.latents))
    return {name: rows[name] for name in METRICS if name in rows}, features


class _Pass:
    """One view of all cases, a chunk of frames after the other."""

    def __init__(self, view: View, images: Tensor, nets: MetricNets, prompts: Sequence[int | str]) -> None:
        self._view, self._nets, self._prompts = view, nets, prompts
        self._metrics = [m for m in METRICS.values() if self._measured(m, tuple(images.shape))]
        self._feature_nets = dict(nets.features) if view is View.FRAMES else {}
        self._cases = len(images)
        self._values: dict[str, list[Tensor]] = {metric.name: [] for metric in self._metrics}
        self._features: dict[int, list[Tensor]] = {id(net): [] for net in self._feature_nets.values()}

    def _measured(self, metric: Metric, shape: tuple[int, ...]) -> bool:
        if metric.view is not self._view or not metric.applies(shape):
            return False
        if metric.inputs is Inputs.MAPS:
            return self._nets.lpips is not None
        return metric.inputs is Inputs.IMAGES or metric.name in self._nets.judges

    def run(self, images: Tensor, reference: Tensor) -> None:
        """Measure all chunks."""
        if not self._metrics and not self._features:
            return
        for a, b, cases in self._chunks(images, reference):
            seen = self._see(a)
            for metric in self._metrics:
                self._values[metric.name].append(self._value(metric, a, b, cases, seen))
            for net in {id(net): net for net in self._feature_nets.values()}.values():
                found = seen[id(net)].features
                if found is None:
                    raise TypeError("a network without features")
                self._features[id(net)].append(found.double())

    def _chunks(self, images: Tensor, reference: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        nets = [net for net in (self._nets.lpips, *self._feature_nets.values()) if net is not None]
        sides = [net.side for net in nets] + [getattr(j, "side", 0) for j in self._nets.judges.values()]
        pixels = max(images.shape[-2] * images.shape[-1], *(side * side for side in (0, *sides)))
        changes, size = self._view is View.CHANGES, max(1, CHUNK_PIXELS // pixels)
        device = self._nets.device
        pairs = zip(clip_chunks(images, changes, size), clip_chunks(reference, changes, size), strict=True)
        for (a, cases), (b, _) in pairs:
            yield a.to(device), b.to(device), cases

    def _see(self, images: Tensor) -> dict[int, Seen]:
        nets = list(self._feature_nets.values())
        if self._nets.lpips is not None:
            nets.append(self._nets.lpips)
        return {id(net): net.see(images) for net in {id(net): net for net in nets}.values()}

    def _value(self, metric: Metric, a: Tensor, b: Tensor, cases: Tensor, seen: Mapping[int, Seen]) -> Tensor:
        if metric.inputs is Inputs.MAPS:
            net: PictureNet | None = self._nets.lpips
            if net is None:
                raise TypeError("maps without a network")
            value = metric.function(seen[id(net)].maps, net.see(b).maps, net.heads)
        elif metric.inputs is Inputs.PROMPTS:
            chosen = [self._prompts[i] for i in cases.tolist()] if self._prompts else []
            value = metric.function(self._nets.judges[metric.name], a, chosen)
        else:
            value = metric.function(a, b)
        return torch.as_tensor(value)

    def rows(self) -> Values:
        """One value a case."""
        return {name: self._by_case(parts) for name, parts in self._values.items()}

    def features(self) -> Values:
        """One vector a case; metrics that share a network share the array."""
        arrays = {key: self._by_case(parts) for key, parts in self._features.items()}
        return {name: arrays[id(net)] for name, net in self._feature_nets.items()}

    def _by_case(self, parts: list[Tensor]) -> NDArray[np.float64]:
        frames = torch.cat(parts)
        by_case = frames.view(self._cases, -1, *frames.shape[1:])
        return _array(by_case.double().mean(1))


def joined(parts: Sequence[Values]) -> Values:
    """Join the values of several batches by name; arrays that were shared stay shared."""
    found: Values = {}
    known: dict[int, NDArray[np.float64]] = {}
    for name, first in parts[0].items():
        if id(first) not in known:
            known[id(first)] = np.concatenate([part[name] for part in parts])
        found[name] = known[id(first)]
    return found


def _array(values: Tensor | float) -> NDArray[np.float64]:
    array: NDArray[np.float64] = torch.as_tensor(values).double().cpu().numpy()
    return array


def set_values(
    features: Mapping[str, NDArray[np.float64]],
    references: Mapping[str, ReferenceSet | NDArray[np.float64]],
) -> dict[str, float]:
    """Form the set metrics of which there are features and a reference.

    Shapes: features [n, d], references [m, d], by set metric.

    Raises:
        ConfigError: fewer than 2 rows, another d, or a value that is not finite.
    """
    return {
        name: float(METRICS[name].function(features[name], references[name]))
        for name in SETS
        if name in features and name in references
    }


def set_warnings(features: Mapping[str, NDArray[np.float64]], labels: Mapping[str, str]) -> list[str]:
    """What must be said of set metrics on these features: too few pictures, or all of them equal.

    Args:
        features: by set metric, [n, d].
        labels: metric -> printed name.
    """
    found = []
    for name, rows in features.items():
        below = METRICS[name].warn_below_n
        if below is not None and len(rows) < below:
            found.append(f"{labels.get(name, name)}: below {below} images the value is mostly bias")
    return found + variance_warnings(features, labels)


def variance_warnings(
    features: Mapping[str, NDArray[np.float64]], labels: Mapping[str, str] | None = None
) -> list[str]:
    """One line for every set metric whose pictures all have the same features."""
    return [
        f"{(labels or {}).get(name, name)}: all features are equal; check the pictures and the network"
        for name, rows in features.items()
        if len(rows) > 1 and not np.ptp(rows, axis=0).any()
    ]
