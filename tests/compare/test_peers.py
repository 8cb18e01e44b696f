"""Other libraries' caches on tiny pipelines, in this process and in their own."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers.hooks
import numpy as np
import pytest
import torch

import xslim
from autotune.compare.peers import NEVER_REUSED, PeerFailedError, PeerResult, check_installed, measure_peer
from autotune.compare.peers import installed as installed_module
from autotune.compare.peers import process as process_module
from autotune.compare.peers import worker as worker_module
from autotune.compare.peers.counting import counted, letters, tensor_bytes
from autotune.compare.peers.diffusers_hooks import DiffusersHooks
from autotune.compare.peers.request import PeerRequest, write_failure
from autotune.compare.peers.worker import measure
from autotune.compare.recipe import Peer, Recipe
from autotune.scoring.case import Case
from autotune.scoring.evaluator import EvaluatorSpec, PipelineEvaluator
from autotune.scoring.nets.spec import MetricsSpec, NetSpec
from autotune.scoring.pipeline import Memory, ModelSpec, PipelineRunner
from tests.folders import flux_pipeline, save
from tests.scoring.families import REQUESTS
from tests.tiny import dit_pipeline
from xslim.errors import ConfigError
from xslim.policy.document import read_yaml
from xslim.policy.policy import Policy

STEPS = 8
FLUX_CASES = (Case("three", 1), Case("seven", 2), Case("two", 3))
METHODS = Path(__file__).parents[2] / "experiments/methods"
RECIPES = {
    path.stem: recipe
    for path in sorted(METHODS.glob("*.yaml"))
    if (recipe := Recipe.parse(read_yaml(path))).peer is not None
}


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    root = tmp_path_factory.mktemp("flux")
    model = ModelSpec(
        save(flux_pipeline(), root / "model"), STEPS, 3.0, device="cpu", batch=2, **REQUESTS["flux"]
    )
    return EvaluatorSpec(model, MetricsSpec(), str(root / "references"))


@pytest.fixture(scope="module")
def evaluator(flux: EvaluatorSpec) -> PipelineEvaluator:
    return PipelineEvaluator(flux)


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    root = tmp_path_factory.mktemp("dit")
    model = ModelSpec(save(dit_pipeline(), root / "model"), STEPS, 3.0, device="cpu", batch=2)
    return EvaluatorSpec(model, MetricsSpec(), str(root / "references"))


def first_block(threshold: float) -> Peer:
    return Peer(library="diffusers", config="FirstBlockCacheConfig", arguments={"threshold": threshold})


def asked(spec: EvaluatorSpec, peer: Peer, rounds: int = 0, pictures: int = 0) -> PeerRequest:
    return PeerRequest(spec, peer, FLUX_CASES, rounds, pictures)


# measured


def test_a_cache_is_measured_as_a_policy_is(flux: EvaluatorSpec, evaluator: PipelineEvaluator) -> None:
    found = measure(asked(flux, first_block(1.0), rounds=1, pictures=3), evaluator)
    quality = found.measurement.quality
    assert quality.actions == "F" + "." * (STEPS - 1), "nothing changes by more than itself"
    assert 1 / STEPS < quality.compute_fraction < 0.6
    assert quality.cases == FLUX_CASES
    assert (quality.rows["psnr"] < 90).all()
    assert quality.held_bytes > 0
    assert found.measurement.latency is not None
    assert found.measurement.latency.batch == 2
    assert found.images is not None
    assert (found.images.shape, found.images.dtype) == ((3, 8, 12, 3), np.uint8)
    assert found.notes == ()


def test_what_is_known_of_the_machine_and_the_model_is_not_measured_again(
    flux: EvaluatorSpec, evaluator: PipelineEvaluator
) -> None:
    counted = measure(asked(flux, first_block(0.0)), evaluator)
    known = {size: [2 * macs for macs in calls] for size, calls in counted.uncached.items()}
    request = replace(asked(flux, first_block(0.0), rounds=1), floor=0.25, uncached=known)
    found = measure(request, evaluator)
    assert found.measurement.latency is not None
    assert found.measurement.latency.floor == 0.25
    assert found.measurement.quality.compute_fraction == 0.5 * counted.measurement.quality.compute_fraction
    assert found.uncached == known


def test_a_library_calibrates_itself_on_cases_that_are_not_measured(
    flux: EvaluatorSpec, evaluator: PipelineEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = RECIPES["diffusers-magcache"].of_family("flux").peer
    assert peer is not None
    seen = []

    def prepared(peer: Peer, runner: PipelineRunner, batch: tuple[Case, ...]) -> DiffusersHooks:
        seen.append(batch)
        return DiffusersHooks(peer, runner, batch)

    monkeypatch.setattr(worker_module, "library_of", prepared)
    others = tuple(replace(case, seed=case.seed + 100) for case in FLUX_CASES[:2])
    measure(replace(asked(flux, peer), calibration=others), evaluator)
    measure(asked(flux, peer), evaluator)
    assert seen == [others, FLUX_CASES[:2]]


def test_a_cache_that_computes_everything_says_so(flux: EvaluatorSpec, evaluator: PipelineEvaluator) -> None:
    found = measure(asked(flux, first_block(0.0)), evaluator)
    quality = found.measurement.quality
    assert (quality.compute_fraction, quality.actions) == (1.0, "F" * STEPS)
    assert (quality.rows["latent_rel_l1"] == 0).all(), "counting changes no picture"
    assert found.notes == (NEVER_REUSED,)
    assert found.images is None


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("diffusers-")])
def test_every_cache_of_diffusers_reuses_at_its_last_point(
    name: str, flux: EvaluatorSpec, evaluator: PipelineEvaluator
) -> None:
    recipe = RECIPES[name].of_family("flux")
    peer = recipe.at(recipe.sweep.values[-1]).peer
    assert peer is not None
    early = {"disable_cache_before_step": 2} if "disable_cache_before_step" in peer.arguments else {}
    found = measure(
        asked(flux, peer.model_copy(update={"arguments": {**peer.arguments, **early}})), evaluator
    )
    assert found.measurement.quality.compute_fraction < 1
    assert found.measurement.quality.held_bytes > 0
    assert bool(found.notes) == (peer.config == "MagCacheConfig")


def test_the_pipeline_is_left_as_it_was(evaluator: PipelineEvaluator) -> None:
    runner = evaluator.runner
    before = runner.draw(FLUX_CASES[:2]).images
    library = DiffusersHooks(first_block(1.0), runner, FLUX_CASES[:2])
    with library.enabled(runner) as enabled:
        during = enabled.runner.draw(FLUX_CASES[:2]).images
    assert not torch.equal(before, during)
    assert torch.equal(before, runner.draw(FLUX_CASES[:2]).images)


def test_hooks_left_behind_are_told(flux: EvaluatorSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = PipelineRunner(flux.model)
    library = DiffusersHooks(first_block(1.0), runner, FLUX_CASES[:2])
    monkeypatch.setattr(type(runner.pipe.transformer), "disable_cache", lambda _: None)
    with pytest.raises(PeerFailedError, match="leaves hooks behind"), library.enabled(runner):
        pass


def test_a_cache_that_hooks_nothing_fails(flux: EvaluatorSpec, evaluator: PipelineEvaluator) -> None:
    peer = Peer(
        library="diffusers", config="TaylorSeerCacheConfig", arguments={"cache_identifiers": ["^nowhere$"]}
    )
    with pytest.raises(PeerFailedError, match="finds nothing to hook in FluxTransformer2DModel"):
        measure(asked(flux, peer), evaluator)


# counted


@pytest.mark.parametrize("name", ["flux", "dit"])
def test_counts_are_those_of_our_own_table(name: str, request: pytest.FixtureRequest) -> None:
    runner = PipelineRunner(request.getfixturevalue(name).model)
    cases = FLUX_CASES[:2] if name == "flux" else (Case(1, 1), Case(2, 2))
    with counted([runner.pipe.transformer]) as counts:
        runner.draw(cases)
    with xslim.attach(runner.pipe, Policy.from_pattern("F" + "." * (STEPS - 1)), num_steps=STEPS) as session:
        runner.draw(cases)
    assert counts.calls == pytest.approx([record.full_macs for record in session.trace.records], rel=1e-6)
    assert counts.held_bytes == 0


def test_letters_are_those_of_whole_steps() -> None:
    assert letters([10.0, 5.0, 4.9], [10.0, 10.0, 10.0], 3) == "FF."
    assert letters([10.0, 10.0, 1.0, 1.0], [10.0] * 4, 2) == "F.", "two calls a step"
    assert letters([10.0, 10.0, 1.0], [10.0] * 4, 2) == "", "a call is missing"
    assert letters([10.0] * 3, [10.0] * 3, 2) == ""


def test_held_tensors_count_once() -> None:
    class Held:
        def __init__(self) -> None:
            self.whole = torch.zeros(10)
            self.view = self.whole[:5]
            self.kept = {"a": [torch.zeros(3, dtype=torch.bfloat16)], "itself": self}
            self.module = torch.nn.Linear(4, 4)

    assert tensor_bytes([Held()]) == 10 * 4 + 3 * 2


# what does not run


def test_a_model_without_a_cache_mixin_says_why(dit: EvaluatorSpec) -> None:
    with pytest.raises(PeerFailedError) as told:
        measure(asked(dit, first_block(0.1)))
    assert str(told.value) == "DiTTransformer2DModel is no CacheMixin: diffusers' hooks do not attach to it"


def test_a_library_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed_module, "find_spec", lambda name: None)
    peer = Peer(library="cache-dit", config="DBCacheConfig")
    with pytest.raises(ConfigError) as told:
        check_installed(peer)
    line = "peer.library: cache-dit is not installed: pip install 'xslim-autotune[compare]'"
    assert str(told.value) == line


def test_an_unknown_configuration_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^config: got 'MagCache'; .*MagCacheConfig"):
        Peer(library="diffusers", config="MagCache")


# the process


def test_a_process_measures_the_same(flux: EvaluatorSpec, evaluator: PipelineEvaluator) -> None:
    here = measure(asked(flux, first_block(1.0), pictures=1), evaluator)
    found = measure_peer(asked(flux, first_block(1.0), pictures=1), 100)
    quality = found.measurement.quality
    assert replace(quality, wall_s=0.0, rows={}, features={}) == replace(
        here.measurement.quality, wall_s=0.0, rows={}, features={}
    )
    for name, values in here.measurement.quality.rows.items():
        assert np.array_equal(quality.rows[name], values)
    assert np.array_equal(found.images, here.images)


def test_a_process_that_takes_too_long_is_ended(flux: EvaluatorSpec) -> None:
    with pytest.raises(PeerFailedError, match=r"^ended after 0\.2 s; raise compare\.peer_seconds"):
        measure_peer(asked(flux, first_block(1.0)), 0.2)


def test_a_crash_is_its_last_line(flux: EvaluatorSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "WORKER", "autotune.no_such_worker")
    with pytest.raises(PeerFailedError, match=r"No module named autotune\.no_such_worker$"):
        measure_peer(asked(flux, first_block(1.0)), 30)


def test_a_request_survives_json(flux: EvaluatorSpec) -> None:
    nets = MetricsSpec(lpips=NetSpec("digits", "here", "ab"))
    model = replace(flux.model, memory=Memory(vae_tiling=True), component_dtypes={"vae": "float32"})
    request = replace(
        asked(replace(flux, model=model, metrics=nets, threads=3), first_block(0.2), 2, 5),
        calibration=FLUX_CASES[:1],
        floor=0.03,
        uncached={2: [1.0, 2.0]},
    )
    assert PeerRequest.of(request.to_json()) == request


def test_a_failure_is_read_as_its_reason(tmp_path: Path) -> None:
    write_failure(tmp_path / "result", "it does not fit")
    assert PeerResult.read(tmp_path / "result") == "it does not fit"


# recipes


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_sweep_what_their_library_takes(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.method == name
    assert len(recipe.sweep.values) >= 4
    for value in recipe.sweep.values:
        peer = recipe.at(value).peer
        assert peer is not None
        if peer.library == "diffusers":
            kind: Any = getattr(diffusers.hooks, peer.config)
            assert set(peer.arguments) <= {item.name for item in fields(kind)}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("cache_dit") is None, reason="needs cache-dit")
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("cache-dit-")])
def test_every_cache_of_cache_dit_runs(name: str, flux: EvaluatorSpec) -> None:
    recipe = RECIPES[name]
    peer = recipe.at(recipe.sweep.values[-1]).peer
    assert peer is not None
    model = replace(flux.model, num_steps=16)
    few = {"Fn_compute_blocks": 1, "max_warmup_steps": 2}
    peer = peer.model_copy(update={"arguments": {**peer.arguments, **few}})
    found = measure_peer(PeerRequest(replace(flux, model=model), peer, FLUX_CASES[:2], 1), 100)
    assert found.measurement.quality.compute_fraction < 1
    assert found.measurement.latency is not None
    assert "second pipeline" in found.notes[0]
