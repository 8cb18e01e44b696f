"""The learned corrector: what it computes, costs and holds, and what it refuses."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

import xslim
from tests.conformance.conftest import StackProbe
from tests.tiny import TINY, noise, sample
from xslim import Policy
from xslim.errors import ConfigError
from xslim.policy.prediction import Mlp
from xslim.runtime import session as session_module
from xslim.runtime.compensation import Compensation, load_compensation
from xslim.runtime.feature_cache import held_bytes

DIT = TINY["DiTTransformer2DModel"]


def weights(dim: int, hidden: int = 3) -> dict[str, Tensor]:
    shapes = {"up": (hidden, dim), "down": (dim, hidden)}
    found = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    found |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    return {**found, "norm.weight": torch.rand(dim) + 0.5, "norm.bias": torch.randn(dim)}


def saved(folder: Path, tensors: dict[str, Tensor]) -> Mlp:
    raw = save(tensors)
    (folder / "g.safetensors").write_bytes(raw)
    return Mlp(weights=str(folder / "g.safetensors"), sha256=sha256(raw).hexdigest())


def policy(corrector: Mlp | None, steps: str = "F.F.F") -> Policy:
    return Policy.from_pattern(steps).model_copy(update={"corrector": corrector})


def width() -> int:
    model = DIT.build()
    probe = StackProbe(model)
    with torch.no_grad():
        sample(DIT, model, 1, noise(DIT, 1))
    return int(probe.outputs[0].shape[-1])


def test_a_correction_by_hand() -> None:
    """One channel up: x = (1, 3) has mean 2 and deviation 1, so LN(x) = (-1, 1)."""
    found = Compensation(
        {
            "norm.weight": torch.ones(2),
            "norm.bias": torch.tensor([0.0, 1.0]),  # (-1, 2)
            "up.weight": torch.tensor([[3.0, 2.0]]),
            "up.bias": torch.tensor([-1.0]),  # -3 + 4 - 1 = 0
            "down.weight": torch.tensor([[5.0], [7.0]]),  # GELU(0) = 0
            "down.bias": torch.tensor([0.5, -0.5]),
        }
    )
    x = torch.tensor([[[1.0, 3.0]]])
    torch.testing.assert_close(found(x, torch.float32), torch.tensor([[[1.5, 2.5]]]), rtol=0, atol=1e-4)
    assert found.macs(10) == 10 * (2 * 1 + 1 * 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_agree_with_wide_ones(dtype: torch.dtype) -> None:
    tensors = weights(8)
    x = 100 * torch.randn(2, 5, 8)
    wide = Compensation(tensors)(x, torch.float32)
    found = Compensation(tensors)(x.to(dtype), dtype)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wide, rtol=0.02, atol=1.0)
    assert Compensation(tensors)(torch.full((1, 1, 8), 6e4).to(dtype), dtype).isfinite().all()


def test_predicted_steps_are_corrected_counted_and_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dim = width()
    tensors = weights(dim)
    corrector = saved(tmp_path, tensors)
    loads: list[object] = []

    def load(given: Mlp) -> Compensation | None:
        loads.append(given)
        return load_compensation(given)

    monkeypatch.setattr(session_module, "load_compensation", load)
    model, start = DIT.build(), noise(DIT, 2)
    with torch.no_grad(), xslim.attach(model, policy(corrector), num_steps=5) as session:
        probe = StackProbe(model)
        assert session.held_bytes == held_bytes(tensors.values())
        sample(DIT, model, 5, start)
        trace, held = session.trace, session.peak_held_bytes
    assert session.held_bytes == 0
    assert loads == [corrector]
    entered, left = probe.inputs[1], probe.outputs[1]
    kept = probe.outputs[0] - probe.inputs[0]
    expected = entered + Compensation(tensors)(kept, torch.float32)
    torch.testing.assert_close(left, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad(), xslim.attach(model, policy(None), num_steps=5) as plain:
        sample(DIT, model, 5, start)
    skipped = sum(action == "." for action in trace.actions)
    extra = skipped * len(start) * 2 * kept.shape[1] * dim * 3
    assert trace.macs - plain.trace.macs == pytest.approx(extra)
    assert held == plain.peak_held_bytes + held_bytes(tensors.values())


def test_what_is_not_meant_is_refused_before_anything_is_hooked(tmp_path: Path) -> None:
    good = saved(tmp_path, weights(4))
    other = tmp_path / "other"
    other.write_bytes(b"no tensors")
    wrong = {**weights(4), "up.bias": torch.zeros(9)}
    nowhere = good.model_copy(update={"weights": str(tmp_path / "none")})
    for corrector, told in (
        (nowhere, r"corrector\.weights: cannot read '.*none'"),
        (good.model_copy(update={"sha256": "0" * 64}), r"corrector\.sha256: got 0{12}…, but '.*' has "),
        (Mlp(weights=str(other), sha256=sha256(b"no tensors").hexdigest()), "is no safetensors file"),
    ):
        model = DIT.build()
        with pytest.raises(ConfigError, match=told) as caught:
            xslim.attach(model, policy(corrector), num_steps=5)
        assert "\n" not in str(caught.value)
        xslim.attach(model, policy(None), num_steps=5).detach()
    for tensors, told in (
        (wrong, r"up\.bias is \[9\], not \[3\]"),
        ({"up.weight": torch.zeros(1, 1)}, "got the tensors up.weight; give"),
        ({**weights(4), "more": torch.zeros(1)}, "more"),
    ):
        with pytest.raises(ConfigError, match=told):
            Compensation(tensors)


def test_another_width_is_refused(tmp_path: Path) -> None:
    model = DIT.build()
    with (
        torch.no_grad(),
        xslim.attach(model, policy(saved(tmp_path, weights(7))), num_steps=5),
        pytest.raises(ConfigError, match=r"corrector\.weights: made for 7 channels; the model has "),
    ):
        sample(DIT, model, 5, noise(DIT, 1))
