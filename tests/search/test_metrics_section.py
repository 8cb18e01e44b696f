"""The `metrics` section of an experiment: which networks it names, and what it refuses."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune.scoring.case import make_cases
from autotune.scoring.measurement import Measurement
from autotune.scoring.metrics import ReferenceSet
from autotune.scoring.nets.lpips import LpipsNet
from autotune.scoring.nets.spec import MetricsSpec, NetSpec
from autotune.search.experiment import Experiment, load_experiment
from autotune.search.export import nets
from autotune.search.metrics import Metrics
from autotune.search.scorer import Scorer, check_measured, reference_sets
from tests.search.support import EXPERIMENT, FormulaFactory, Search, merged, write_files
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

SHA = "0123456789abcdef"
ALEX = {"net": "alex", "weights": "alex.pth", "sha256": SHA}
INCEPTION = {"net": "inception", "weights": "inception.pth", "sha256": SHA}


def parsed(metrics: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment.parse(merged(EXPERIMENT, {"metrics": metrics, **changes}))


def measured() -> Measurement:
    cases = make_cases([0, 1], 4, 4, 0)[0]
    return FormulaFactory().build().evaluate(Policy.from_pattern("F." * 6), cases, 1)


def test_the_classifier_serves_lpips_fid_and_kid() -> None:
    assert Metrics.parse({"net": "net"}).spec() == MetricsSpec.digits("net")
    assert Metrics.parse({}).spec() == MetricsSpec()


def test_networks_are_chosen_by_role() -> None:
    clip = {"model": "models/clip-vit-large-patch14-336"}
    metrics = Metrics.parse(
        {
            "net": "net",
            "lpips": ALEX,
            "fid": INCEPTION,
            "cmmd": {**clip, "features": "clip.npz"},
            "clip_score": clip,
            "image_reward": {"model": "reward"},
        }
    )
    spec = metrics.spec()
    assert spec.lpips == NetSpec("alex", "alex.pth", SHA)
    assert spec.fid == NetSpec("inception", "inception.pth", SHA)
    assert spec.cmmd == spec.clip_score == NetSpec("clip", "models/clip-vit-large-patch14-336")
    assert metrics.reference_file("cmmd") == ("metrics.cmmd.features", "clip.npz")
    assert metrics.reference_file("kid") == ("metrics.reference_stats", None)
    data = parsed(metrics.to_data())
    assert nets(data, 512) == {
        "lpips": "lpips_alex",
        "lpips_temporal": "lpips_temporal_alex",
        "clip_score": "clip_score_clip-vit-large-patch14-336",
        "image_reward": "image_reward",
        "fid": "fid_inception@512",
        "kid": "kid_inception@512",
        "cmmd": "cmmd_clip-vit-large-patch14-336@512",
    }
    assert Metrics.parse({"net": "net", "cmmd": {"net": "digits"}}).spec().cmmd == NetSpec("digits", "net")
    assert Metrics.parse({"cmmd": INCEPTION}).spec().cmmd == NetSpec("inception", "inception.pth", SHA)


@pytest.mark.parametrize(
    ("metrics", "parts"),
    [
        ({}, ("objectives.1: lpips needs a network", "metrics.net", "metrics.lpips: {net: alex")),
        ({"fid": INCEPTION}, ("objectives.1: lpips needs a network",)),
        ({"net": "net", "lpips": {"net": "squeeze"}}, ("metrics.lpips.net", "'squeeze'", "'alex' or 'vgg'")),
        (
            {"lpips": {"net": "alex"}},
            ("metrics.lpips.weights", "missing; net 'alex' needs weights and sha256"),
        ),
        ({"lpips": {"net": "alex", "weights": "a"}}, ("metrics.lpips.sha256", "missing")),
        ({"lpips": {**ALEX, "sha256": "xyz"}}, ("metrics.lpips.sha256", "'xyz'")),
        ({"lpips": {"net": "digits"}}, ("metrics.lpips.net", "give its folder as metrics.net")),
        ({"net": "n", "lpips": {"net": "digits", "weights": "a"}}, ("metrics.lpips.weights", "takes none")),
        ({"net": "n", "cmmd": {}}, ("metrics.cmmd.model", "folder of a CLIP model")),
        ({"net": "n", "cmmd": {"net": "digits", "model": "m"}}, ("metrics.cmmd.model", "only for it")),
        ({"net": "n", "clip_score": {}}, ("metrics.clip_score.model", "missing")),
        ({"net": "n", "clipscore": {"model": "m"}}, ("metrics.clipscore", "did you mean 'clip_score'")),
        ({"net": ""}, ("metrics.net",)),
    ],
)
def test_a_section_at_fault_is_one_line(metrics: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(metrics, objectives=["latency", "lpips"])
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("bound", "give"),
    [
        ("lpips_p95", "metrics.lpips: {net: alex"),
        ("lpips_temporal", "metrics.lpips: {net: alex"),
        ("fid", "metrics.fid: {net: inception"),
        ("kid", "metrics.fid: {net: inception"),
        ("cmmd", "metrics.cmmd: {net: clip, model: DIR}"),
        ("clip_score_p5", "metrics.clip_score: {model: DIR}"),
        ("image_reward", "metrics.image_reward: {model: DIR}"),
    ],
)
def test_a_bound_without_its_network_says_what_to_give(bound: str, give: str) -> None:
    for key in ("bounds", "tiers.high"):
        with pytest.raises(ConfigError) as caught:
            parsed({}, **{"tiers": {"high": {}}, key: {bound: {"max": 1.0}}})
        assert f"{key}.{bound}: " in str(caught.value)
        assert give in str(caught.value)


def test_psnr_alone_needs_no_network() -> None:
    assert parsed({}).metrics.spec() == MetricsSpec()


def test_files_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    weights = tmp_path / "alex.pth"
    torch.save(LpipsNet("alex").state_dict(), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    good = {"net": "alex", "weights": str(weights), "sha256": digest}
    Metrics.parse({"lpips": good}).check_files()
    for metrics, match in (
        ({"net": "tests"}, r"metrics\.net: got 'tests', which holds no model\.safetensors"),
        (
            {"lpips": {**good, "weights": "none.pth"}},
            r"metrics\.lpips\.weights: got 'none\.pth', which is no file",
        ),
        ({"lpips": {**good, "sha256": SHA}}, rf"metrics\.lpips\.sha256: got {SHA}, but .* has {digest}"),
        ({"fid": INCEPTION}, r"metrics\.fid\.weights: got 'inception\.pth', which is no file"),
        ({"cmmd": {"model": "tests"}}, r"metrics\.cmmd\.model: got 'tests', which holds no config\.json"),
        ({"reference_stats": "none.npz"}, r"metrics\.reference_stats: got 'none\.npz', which is no file"),
    ):
        with pytest.raises(ConfigError, match=match):
            Metrics.parse(metrics).check_files()


def test_references_are_given_features_or_those_of_the_baseline(tmp_path: Path) -> None:
    baseline, path = measured(), tmp_path / "features.npz"
    rows = np.random.default_rng(1).normal(size=(30, 8))
    np.savez(path, features=rows.astype(np.float16))
    own = reference_sets(Metrics.parse({"net": "net"}), baseline)
    assert set(own) == {"fid", "kid"}
    assert own["fid"] is own["kid"], "what both need is kept once"
    assert own["fid"].rows is not None
    np.testing.assert_array_equal(own["fid"].rows, baseline.quality.features["fid"])
    given = reference_sets(Metrics.parse({"net": "net", "reference_stats": str(path)}), baseline)
    assert given["fid"].rows is not None
    assert len(given["fid"].rows) == 30
    assert given["fid"] is given["kid"]


def test_statistics_of_a_reference_serve_fid_alone(tmp_path: Path) -> None:
    baseline, path = measured(), tmp_path / "published.npz"
    np.savez(path, mu=np.zeros(8), sigma=np.eye(8))
    given = reference_sets(Metrics.parse({"net": "net", "reference_stats": str(path)}), baseline)
    assert set(given) == {"fid"}
    scalars = Scorer(given).scalars(baseline)
    assert "kid" not in scalars
    with pytest.raises(ConfigError, match=r"bounds\.kid: .* kid needs a reference of features"):
        check_measured([("bounds.kid", "kid")], scalars)


def test_references_at_fault_are_one_line(tmp_path: Path) -> None:
    baseline, path = measured(), tmp_path / "features.npz"
    for content, match in (
        (
            {"features": np.zeros((5, 3))},
            "with 3 numbers a picture, the network of fid gives 8; give features",
        ),
        ({"features": np.zeros((1, 8))}, "got 1 pictures, a set metric needs at least 2"),
        ({"features": np.full((5, 8), np.nan)}, "not finite"),
        ({"feature": np.zeros((5, 8))}, "no .npz with an array `features`"),
    ):
        np.savez(path, **content)
        with pytest.raises(ConfigError, match=match) as caught:
            reference_sets(Metrics.parse({"net": "net", "reference_stats": str(path)}), baseline)
        assert caught.value.key == "metrics.reference_stats"
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no \.npz"):
        ReferenceSet.load(str(path), "metrics.reference_stats")


@pytest.mark.parametrize(
    ("scalar", "reason"),
    [
        (
            "ms_ssim_p5",
            "ms_ssim needs pictures with sides of at least 161 pixels; measured are compute_fraction,",
        ),
        ("psnr_temporal", "psnr_temporal needs clips; measured are"),
        ("latent_rel_l1", "is not measured: measured are"),
    ],
)
def test_a_bound_on_what_this_model_cannot_give_stops_before_the_search(
    scalar: str, reason: str, tmp_path: Path
) -> None:
    search = Search(tmp_path, {"bounds": {scalar: {"min": 0.5}}})
    with pytest.raises(ConfigError) as caught:
        search.run()
    assert str(caught.value).startswith(f"bounds.{scalar}: ")
    assert reason in str(caught.value)
    assert search.rows == []


def test_what_is_measured_passes() -> None:
    scalars = Scorer(measured().quality.features).scalars(measured())
    check_measured([("objectives.0", "latency"), ("bounds.psnr_p5", "psnr_p5")], scalars)


def test_equal_pictures_are_warned_of_and_give_numbers(caplog: pytest.LogCaptureFixture) -> None:
    found = measured()
    flat = {name: np.ones_like(rows) for name, rows in found.quality.features.items()}
    quality = replace(found.quality, features=flat)
    with caplog.at_level(logging.WARNING):
        scalars = Scorer(found.quality.features).scalars(replace(found, quality=quality))
    assert all(np.isfinite(value) for value in scalars.values())
    assert "fid: all features are equal" in caplog.text


def test_set_metrics_absent_from_a_measurement_are_absent_from_its_scalars() -> None:
    found = measured()
    bare = replace(found, quality=replace(found.quality, features={}))
    scorer = Scorer(found.quality.features)
    scalars = scorer.scalars(bare)
    assert not {"fid", "kid", "cmmd"} & set(scalars)
    assert scorer.set_intervals({}, scalars) == {}


def test_overrides_reach_the_section(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    loaded = load_experiment(path, ["metrics.lpips={net: vgg, weights: w.pth, sha256: 397923af}"])
    assert loaded.metrics.spec().names()["lpips"] == "vgg"
