"""What a tracker is told: names that let searches compare, settings, candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.search.tracker import Candidate, CaseSet, NullTracker
from autotune.search.tracking import experiment_name, registered_name, settings
from tests.search.support import Search
from xslim.policy.preset import ModelSignature

GPU = "NVIDIA H200"


def signature(**fields: Any) -> ModelSignature:
    return ModelSignature(family="dit", transformer="T", num_steps=50, **fields)


@pytest.mark.parametrize(
    ("path", "fields", "device", "name"),
    [
        (
            "a/dit-digits/",
            {"latent_shape": (1, 16, 16)},
            GPU,
            "dit-digits, 50 steps, 16x16 latent, NVIDIA H200",
        ),
        (
            "bfl/FLUX.1-dev",
            {"latent_shape": (4096, 64)},
            GPU,
            "FLUX.1-dev, 50 steps, 4096x64 latent, NVIDIA H200",
        ),
        ("clip", {"latent_shape": (16, 9, 8, 8)}, GPU, "clip, 50 steps, 9x8x8 latent, NVIDIA H200"),
        ("x", {"height": 64, "width": 32}, GPU, "x, 50 steps, 64x32 latent, NVIDIA H200"),
        (
            "x",
            {},
            "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz (28 cores)",
            "x, 50 steps, any size, Intel Xeon E5-2680 v4 (28 cores)",
        ),
    ],
)
def test_an_experiment_is_named_by_what_is_compared(
    path: str, fields: dict[str, Any], device: str, name: str
) -> None:
    assert experiment_name(path, signature(**fields), device) == name


def test_a_registered_name_is_one_for_mlflow() -> None:
    assert registered_name("dit-digits", "high") == "dit-digits-high"
    assert registered_name("dit", "a/b:c") == "dit-a-b-c"


def test_settings_are_dotted_and_count_the_prompts(tmp_path: Path) -> None:
    found = settings(Search(tmp_path, {"search.seed": 3}).experiment)
    assert found["search.seed"] == 3
    assert found["tiers.high.psnr_p5.min"] == 12.0
    assert found["model.prompts"] == "3 prompts"
    assert "references" not in found


class Record(NullTracker):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def start(self, name: str, experiment: str, params: Any, tags: Any) -> None:
        self.calls.append(("start", (name, experiment, tags)))

    def datasets(self, sets: Any) -> None:
        self.calls.append(("datasets", sets))

    def trial(self, number: int, params: Any, metrics: Any, tags: Any) -> None:
        self.calls.append(("trial", (number, tags)))

    def front(self, numbers: Any) -> None:
        self.calls.append(("front", list(numbers)))

    def progress(self, step: int, metrics: Any) -> None:
        self.calls.append(("progress", (step, metrics)))

    def artifacts(self, files: Any) -> None:
        self.calls.append(("artifacts", files))

    def register(self, candidates: Any) -> None:
        self.calls.append(("register", candidates))

    def finish(self, metrics: Any, status: str) -> None:
        self.calls.append(("finish", status))

    def of(self, kind: str) -> list[Any]:
        return [value for name, value in self.calls if name == kind]


def test_a_search_tells_all_of_it(tmp_path: Path) -> None:
    tracker, search = Record(), Search(tmp_path)
    summary = search.run(tracker=tracker).summary
    ((name, experiment, tags),) = tracker.of("start")
    assert name == f"formula, seed 0 in {tmp_path.name}"
    assert tags["device"] == summary["environment"]["device"]
    assert experiment.startswith("model, 12 steps, ")
    ((chosen, holdout),) = tracker.of("datasets")
    assert isinstance(chosen, CaseSet)
    assert [(s.context, s.cases, s.prompts) for s in (chosen, holdout)] == [
        ("search", 4, 3),
        ("holdout", 6, 3),
    ]
    presets = list(tmp_path.glob("presets/front-*.yaml"))
    assert f"cases_sha256: {holdout.sha256}" in presets[0].read_text()

    assert {"family", "actions", "feasible", "attempt"} <= set(tracker.of("trial")[0][1])
    on_front = tracker.of("front")[-1]
    assert {member["trial"] for member in summary["front"]} & set(on_front)
    assert {row.trial for row in search.rows} >= set(on_front)
    curve = [
        metrics["best_speedup/fast"]
        for _, metrics in tracker.of("progress")
        if "best_speedup/fast" in metrics
    ]
    assert curve == sorted(curve)
    assert curve[-1] > 1

    candidates: list[Candidate] = tracker.of("register")[0]
    assert [entry.name for entry in candidates] == [f"formula-{tier}" for tier in summary["tiers"]]
    for entry in candidates:
        assert entry.file.exists()
        assert {"tier", "device", "trial", "speedup", "psnr_p5"} <= set(entry.tags)
    certified = tracker.of("progress")[-1][1]
    for tier, member in summary["tiers"].items():
        assert certified[f"certified_speedup/{tier}"] == pytest.approx(member["speedup"])
    assert tracker.calls[-1] == ("finish", "FINISHED")
    json.dumps([entry.tags for entry in candidates])


def test_a_finished_search_tells_where_it_belongs_again(tmp_path: Path) -> None:
    first, second = Record(), Record()
    Search(tmp_path).run(tracker=first)
    Search(tmp_path).run(tracker=second, resume=True)
    assert second.of("start") == first.of("start")
    assert [name for name, _ in second.calls] == ["start", "datasets", "finish"]
