"""What people run beside the runtime: compiled blocks, LoRA, offloading, ControlNet, attention backends."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import xslim
from tests.tiny import TINY, Tiny, noise, sample
from xslim import Policy

FLUX = TINY["FluxTransformer2DModel"]
REPLAY_ALL = {"start_block": 0, "block_threshold": 1e9}
PATTERNS = ("FFFFFF", pytest.param("F.FB.F", marks=pytest.mark.slow), "FFTFTF")


@pytest.fixture(params=["FluxTransformer2DModel", "DiTTransformer2DModel"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return TINY[request.param]


def compiled(tiny: Tiny, pattern: str | None, attach_first: bool) -> tuple[Tensor, CompileCounter]:
    """The latent that a model with compiled blocks ends at, and its graphs."""
    torch._dynamo.reset()
    model, counter = tiny.build(), CompileCounter()
    policy = None if pattern is None else Policy.from_pattern(pattern, **REPLAY_ALL)
    if policy is not None and attach_first:
        xslim.attach(model, policy, num_steps=len(policy.controller.steps))
    for block in blocks(model):
        block.compile(backend=counter, fullgraph=pattern is None)
    if policy is not None and not attach_first:
        xslim.attach(model, policy, num_steps=len(policy.controller.steps))
    return sample(tiny, model, 6, noise(tiny, 1)), counter


@cache
def bare(tiny: Tiny) -> tuple[Tensor, CompileCounter]:
    """The same without a session."""
    return compiled(tiny, None, attach_first=False)


def blocks(model: nn.Module) -> list[nn.Module]:
    lists = (getattr(model, name, ()) for name in ("transformer_blocks", "single_transformer_blocks"))
    return [block for members in lists for block in members]


@pytest.mark.parametrize("attach_first", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_compiled_blocks_keep_their_graphs(tiny: Tiny, pattern: str, attach_first: bool) -> None:
    plain, uncached = bare(tiny)
    cached, counter = compiled(tiny, pattern, attach_first)
    assert uncached.frame_count > 0
    assert (counter.frame_count, counter.op_count) == (uncached.frame_count, uncached.op_count)
    if pattern == "FFFFFF":
        assert torch.equal(plain, cached)
    else:
        with xslim.attach(model := tiny.build(), Policy.from_pattern(pattern, **REPLAY_ALL), num_steps=6):
            torch.testing.assert_close(cached, sample(tiny, model, 6, noise(tiny, 1)))


def lora() -> object:
    from peft import LoraConfig

    return LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False)


def test_lora_loaded_and_unloaded_while_attached() -> None:
    tiny = FLUX  # diffusers loads no LoRA into a DiT
    start = noise(tiny, 2)
    reference = tiny.build()
    bare = sample(tiny, reference, 4, start)
    torch.manual_seed(3)
    reference.add_adapter(lora())
    adapted = sample(tiny, reference, 4, start)
    assert not torch.equal(bare, adapted)

    model = tiny.build()
    with xslim.attach(model, Policy.from_pattern("FFFF"), num_steps=4):
        assert torch.equal(sample(tiny, model, 4, start), bare)
        torch.manual_seed(3)
        model.add_adapter(lora())
        assert torch.equal(sample(tiny, model, 4, start), adapted)
        model.delete_adapters("default")
        assert torch.equal(sample(tiny, model, 4, start), bare)
    assert torch.equal(sample(tiny, model, 4, start), bare)


@pytest.mark.parametrize("attach_first", [True, False])
def test_group_offloading(attach_first: bool) -> None:
    tiny = FLUX  # diffusers offloads no groups of a DiT
    policy = Policy.from_pattern("FFB.TF", **REPLAY_ALL)
    start = noise(tiny, 2)
    with xslim.attach(model := tiny.build(), policy, num_steps=6):
        expected = sample(tiny, model, 6, start)
    model = tiny.build()
    session = xslim.attach(model, policy, num_steps=6) if attach_first else None
    cpu = torch.device("cpu")
    model.enable_group_offload(cpu, cpu, offload_type="block_level", num_blocks_per_group=1)
    session = session or xslim.attach(model, policy, num_steps=6)
    assert torch.equal(sample(tiny, model, 6, start), expected)
    assert session.trace.actions == "FFB.TF"
    assert session.trace.compute_fraction < 1
    session.detach()
    assert torch.equal(sample(tiny, model, 6, start), sample(tiny, tiny.build(), 6, start))


@pytest.mark.parametrize(
    ("policy", "group", "reason"),
    [
        (Policy(controller={"kind": "dual-threshold", "critical": 1.0, "polish": []}), 1, "modulated_input"),
        (Policy.from_pattern("FFB.TF", **REPLAY_ALL), 2, "num_blocks_per_group=1"),
    ],
)
def test_what_group_offloading_cannot_serve_runs_in_full(policy: Policy, group: int, reason: str) -> None:
    model, start, cpu = FLUX.build(), noise(FLUX, 1), torch.device("cpu")
    plain = sample(FLUX, model, 6, start)
    model.enable_group_offload(cpu, cpu, offload_type="block_level", num_blocks_per_group=group)
    with xslim.attach(model, policy, num_steps=6) as session:
        assert torch.equal(sample(FLUX, model, 6, start), plain)
    assert session.trace.actions == "FFFFFF"
    assert reason in session.requests[0].mismatch


@pytest.mark.gpu
def test_model_offloading() -> None:
    from tests.tiny import dit_pipeline, generate

    expected = generate(dit_pipeline(), 6)
    pipe = dit_pipeline()
    pipe.enable_model_cpu_offload()
    with xslim.attach(pipe, Policy.from_pattern("FFFFFF"), num_steps=6) as session:
        torch.testing.assert_close(generate(pipe, 6), expected, rtol=1e-3, atol=1e-3)
    assert session.trace.actions == "FFFFFF"


def control(scale: float, blocks: int) -> list[Tensor]:
    return [scale * torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(i)) for i in range(blocks)]


@pytest.mark.parametrize("pattern", ["FFFF", "F.F.", "FBFB", "FFTT"])
def test_controlnet_residuals_on_flux(pattern: str) -> None:
    """Residuals are added between blocks by the transformer; reuse sees them as part of the stack."""
    model, start = FLUX.build(), noise(FLUX, 2)
    given = {
        "controlnet_block_samples": control(0.5, 3),
        "controlnet_single_block_samples": control(0.5, 3),
    }

    def run(target: nn.Module) -> Tensor:
        def call(**kwargs: object) -> object:
            return target(**{**kwargs, **given})

        return sample(FLUX, call, 4, start)

    plain = run(model)
    assert not torch.allclose(plain, sample(FLUX, model, 4, start))
    exact = {"block_threshold": 0.0, "token_ratio": 1.0}
    with xslim.attach(model, Policy.from_pattern(pattern, **exact), num_steps=4) as session:
        cached = run(model)
    assert session.trace.actions == pattern
    if "." in pattern:
        assert (cached - plain).abs().max() < (plain - sample(FLUX, model, 4, start)).abs().max()
    else:
        torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-4)


def test_an_attention_backend_that_is_not_seen_runs_token_steps_in_full() -> None:
    """Attention that does not go through PyTorch's function keeps nothing, so nothing is refreshed."""

    class Manual:
        _attention_backend = None
        _parallel_config = None

        def __call__(self, attn: nn.Module, hidden_states: Tensor, *_: object, **__: object) -> object:
            query, key, value = (layer(hidden_states) for layer in (attn.to_q, attn.to_k, attn.to_v))
            scores = torch.softmax(query @ key.transpose(1, 2) / query.shape[-1] ** 0.5, dim=-1)
            return attn.to_out[1](attn.to_out[0](scores @ value))

    tiny = TINY["DiTTransformer2DModel"]
    model, start = tiny.build(), noise(tiny, 1)
    for block in model.transformer_blocks:
        block.attn1.set_processor(Manual())
    plain = sample(tiny, model, 4, start)
    with xslim.attach(model, Policy.from_pattern("FFTF"), num_steps=4) as session:
        assert torch.equal(sample(tiny, model, 4, start), plain)
    assert session.trace.actions == "FFFF"
    assert session.trace.records[2].decisions[0].reason == "nothing kept"


class Peeking(torch.nn.Linear):
    """A layer that reads its input on the host, which cannot be done while cost is counted."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1.0 if x.sum().item() else 2.0))


def test_a_model_whose_cost_cannot_be_counted_runs_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    tiny = TINY["DiTTransformer2DModel"]
    model, start = tiny.build(), noise(tiny, 1)
    model.proj_out_1.__class__ = Peeking
    plain = sample(tiny, model, 3, start)
    with xslim.attach(model, Policy.from_pattern("FFF"), num_steps=3):
        assert torch.equal(sample(tiny, model, 3, start), plain)
    with xslim.attach(model, Policy.from_pattern("F.F"), num_steps=3) as session:
        sample(tiny, model, 3, start)
    assert session.trace.actions == "F.F"
    assert session.trace.compute_fraction == pytest.approx(2 / 3)  # in blocks
    assert "cannot count MACs" in caplog.text
