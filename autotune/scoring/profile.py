"""The profile: what one uncached pass tells, as a value; `autotune.scoring.profiling` takes it.

From it come the calibration of every signal to the true residual change, the step curve, and what every
schedule costs and spoils under every predictor without running the transformer again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xslim.errors import ConfigError
from xslim.policy.calibration import Calibration
from xslim.policy.preset import ModelSignature

if TYPE_CHECKING:  # it loads torch
    from autotune.scoring.cost import CostModel

Array = NDArray[np.float64]
TOKEN_BUDGETS = tuple(round(0.1 * i, 1) for i in range(1, 10))  # at which `Profile.tokens` is known


def _empty() -> Array:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one uncached pass tells. A row is a sample of a guidance branch.

    Attributes:
        signature: model and request that were profiled.
        gram: inner products of the stack residuals of all steps, [rows, steps, steps].
        change: relative L1 change of the residual against the previous step, [steps - 1], mean over rows.
        sensitivity: error of the final picture per unit of residual error at each step, [steps].
        calibration: signal -> points of its map to the change.
        fit: signal -> rank correlation of the signal with the change.
        signals: signal -> raw values, [steps - 1, rows], NaN where undefined.
        curve: mean |change of the residual| from step i to i + 1, [steps - 1], mean over rows.
        gamma: growth of the residual, mean over tokens of |residual| by the previous step's, [steps - 1].
        blocks: inner products of each block's residuals at all steps, [blocks, steps, steps], mean over rows,
            of evenly spaced values; empty where not every call runs every block.
        tokens: share of the squared change that lies in the tokens which changed most one step before, by
            `TOKEN_BUDGETS`, [steps - 1, budgets], mean over rows.
        jumps: steps behind an outlier of the curve; a policy had better compute them.
        sigma_windows: the same as ranges of sigma, for `guards.sigma_windows`.
        cost: what any schedule costs; its seconds are fitted by `autotune profile` only.
    """

    signature: ModelSignature
    gram: Array
    change: Array
    sensitivity: Array
    calibration: dict[str, Calibration]
    fit: dict[str, float]
    signals: dict[str, Array] = field(default_factory=dict)
    curve: Array = field(default_factory=_empty)
    gamma: Array = field(default_factory=_empty)
    blocks: Array = field(default_factory=_empty)
    tokens: Array = field(default_factory=_empty)
    jumps: tuple[int, ...] = ()
    sigma_windows: tuple[tuple[float, float], ...] = ()
    cost: CostModel | None = None

    @property
    def num_steps(self) -> int:
        """Denoising steps."""
        return int(self.gram.shape[1])

    @property
    def lengths(self) -> Array:
        """Length of the residual's change from step i to i + 1, [steps - 1], mean over rows."""
        diagonal = np.einsum("rii->ri", self.gram)
        off = np.einsum("rii->ri", self.gram[:, 1:, :-1])
        found: Array = np.sqrt(np.maximum(diagonal[:, 1:] + diagonal[:, :-1] - 2 * off, 1e-12)).mean(0)
        return found

    def nodes(self, num_steps: int) -> NDArray[np.int_]:
        """The recorded step nearest to each step of a request of so many, both over the same way."""
        found: NDArray[np.int_] = np.round(self._places(num_steps)).astype(int)
        return found

    def at_steps(self, num_steps: int) -> Profile:
        """Return what a request of another number of steps is taken to record: that of the nearest steps.

        A signal is the change from step to step, so it adds up over the recorded steps in between.
        """
        if num_steps == self.num_steps:
            return self
        nodes = self.nodes(num_steps)
        before = np.minimum(nodes[:-1], self.num_steps - 2)  # of what is known from each step to the next

        def summed(values: Array) -> Array:
            total = np.concatenate([np.zeros((1, values.shape[1])), np.nancumsum(values, axis=0)])
            at = [np.interp(self._places(num_steps), np.arange(len(total)), column) for column in total.T]
            found: Array = np.where(
                np.isfinite(values[before]), np.diff(np.stack(at, axis=1), axis=0), np.nan
            )
            return found

        return replace(
            self,
            signature=self.signature.model_copy(
                update={"num_steps": num_steps, "timesteps": None, "sigmas": None, "scheduler_sha256": None}
            ),
            gram=self.gram[:, nodes][:, :, nodes],
            change=summed(self.change[:, None])[:, 0],
            sensitivity=self.sensitivity[nodes] * self.num_steps / num_steps,
            signals={name: summed(values) for name, values in self.signals.items()},
            curve=summed(self.curve[:, None])[:, 0] if self.curve.size else self.curve,
            gamma=self.gamma[before] if self.gamma.size else self.gamma,
            blocks=self.blocks[:, nodes][:, :, nodes] if self.blocks.size else self.blocks,
            tokens=self.tokens[before] if self.tokens.size else self.tokens,
            jumps=(),
            cost=None if self.cost is None else self.cost.at_steps([int(node) for node in nodes]),
        )

    def _places(self, num_steps: int) -> Array:
        found: Array = np.linspace(0.0, self.num_steps - 1.0, num_steps)
        return found

    def with_sensitivity(self, sensitivity: Array) -> Profile:
        """Return the same profile with a measured sensitivity, [steps]."""
        return replace(self, sensitivity=sensitivity)

    def to_json(self) -> str:
        """Return the profile as JSON; `from_json` reads it back."""
        data: dict[str, Any] = {name: _listed(getattr(self, name)) for name in ARRAYS}
        data |= {
            "signature": self.signature.to_data(),
            "calibration": {name: c.to_data() for name, c in self.calibration.items()},
            "fit": self.fit,
            "signals": {name: _listed(values) for name, values in self.signals.items()},
            "jumps": self.jumps,
            "sigma_windows": self.sigma_windows,
            "cost": None if self.cost is None else self.cost.to_data(),
        }
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        cost = None
        if data.get("cost") is not None:
            from autotune.scoring.cost import CostModel

            try:
                cost = CostModel.parse(data["cost"])
            except ConfigError as error:
                raise ConfigError(
                    f"{error.problem}; profile the model anew", key=f"cost.{error.key}"
                ) from None
        arrays = {name: np.asarray(data[name], dtype=np.float64) for name in ARRAYS if name in data}
        return cls(
            **arrays,
            signature=ModelSignature.parse(data["signature"]),
            calibration={name: Calibration.parse(c) for name, c in data["calibration"].items()},
            fit=data["fit"],
            signals={
                name: np.asarray(values, dtype=np.float64) for name, values in data.get("signals", {}).items()
            },
            jumps=tuple(data.get("jumps", ())),
            sigma_windows=tuple((low, high) for low, high in data.get("sigma_windows", ())),
            cost=cost,
        )


ARRAYS = ("gram", "change", "sensitivity", "curve", "gamma", "blocks", "tokens")


def _listed(values: Array) -> Any:
    """Nested lists; None where a value is undefined, which JSON has no number for."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
