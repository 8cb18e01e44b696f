"""What a dry run tells: a plan of every shipped experiment, without weights, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.scoring.case import Case, make_cases
from autotune.scoring.drawn import Drawn
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.sensitivity import probe_steps
from autotune.search.experiment import load_experiment
from autotune.search.plan import draws, to_provide
from autotune.search.run import evaluator_spec
from tests.cli.support import ROOT, Result
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

Autotune = Callable[..., Result]
SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))
FLUX = ROOT / "experiments" / "flux-dev.yaml"
WORKERS = ("--set", "executor.workers=2")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_has_a_plan(path: Path, autotune: Autotune, tmp_path: Path) -> None:
    result = autotune("search", path, "--out", tmp_path / "out", "--dry-run", "--json", *WORKERS)
    assert result.status == 0, result.err
    plan = json.loads(result.out)
    experiment = load_experiment(path)
    drawn = plan["draws"]
    assert plan["images"] == sum(drawn.values())
    assert sum(plan["busy_draws"].values()) > plan["images"]
    counts = ("search", "holdout", "batch", "sensitivity")
    assert plan["cases"] == {name: getattr(experiment.cases, name) for name in counts}
    assert drawn["cached"] >= experiment.search.trials * experiment.cases.search
    assert plan["transformer_calls"] == plan["images"] * plan["calls_per_image"]
    assert plan["calls_per_image"] == experiment.model.num_steps * (
        1 + (path.stem in ("wan2.1", "qwen-image"))
    )
    assert plan["tflop_per_image"] > 0
    estimate = plan["estimate"]
    assert estimate["worker"] == ("CPU" if path.stem.endswith("digits") else "GPU")
    assert 0 < estimate["worker_hours"] / 2 < estimate["wall_hours"] < estimate["worker_hours"] < 1000
    assert estimate["busy_wall_hours"] > estimate["wall_hours"]
    assert estimate["at_least"] is (estimate["worker"] == "CPU")
    assert ("the least" in estimate["assumed"][-1]) is estimate["at_least"]
    assert "TFLOP/s sustained" in estimate["assumed"][0]
    assert plan["workers"] == 2
    assert not (tmp_path / "out").exists()


def test_the_plan_of_flux_reads_so(autotune: Autotune, golden: Callable[[str, str], None]) -> None:
    result = autotune("search", FLUX, "--dry-run", *WORKERS)
    assert result.status == 0, result.err
    golden("plan_flux_dev.txt", result.out)


def test_the_page_shows_the_plan_as_it_is(autotune: Autotune) -> None:
    page = (ROOT / "docs" / "tune-flux-dev.md").read_text()
    result = autotune("search", FLUX, "--dry-run", "--set", "executor.workers=1")
    assert f"```text\n{result.out}```" in page


def test_what_has_to_be_provided_is_told(autotune: Autotune, tmp_path: Path) -> None:
    result = autotune("search", FLUX, "--dry-run")
    assert result.err == "not on this machine: metrics.lpips: metrics/alexnet-owt-7be5be79.pth\n"
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"other weights")
    result = autotune("search", FLUX, "--dry-run", "--set", f"metrics.lpips.weights={wrong}")
    assert result.status == 2
    assert "metrics.lpips.sha256: got 7be5be79, but" in result.one_line()


def test_own_numbers_replace_the_assumed_ones(autotune: Autotune) -> None:
    def hours(*settings: str) -> dict[str, Any]:
        sets = [word for setting in settings for word in ("--set", setting)]
        plan = json.loads(autotune("search", FLUX, "--dry-run", "--json", *sets).out)
        estimate: dict[str, Any] = plan["estimate"]
        return estimate

    assumed, measured = hours(), hours("model.seconds_per_image=10")
    assert measured["seconds_per_image"] == 10
    ratio = assumed["seconds_per_image"] / 10
    assert assumed["worker_hours"] == pytest.approx(ratio * measured["worker_hours"])
    assert measured["assumed"][0] == "10 s uncached, as model.seconds_per_image gives it"
    twice = hours("model.sustained_tflops=300")
    assert twice["worker_hours"] == pytest.approx(assumed["worker_hours"] / 2)
    assert "as model.sustained_tflops gives it" in twice["assumed"][0]
    unknown = hours("model.path=some/other-model", "model.seconds_per_image=10")
    assert unknown["worker_hours"] == measured["worker_hours"]


def test_an_unknown_model_has_a_plan_without_hours(autotune: Autotune) -> None:
    result = autotune("search", FLUX, "--dry-run", "--set", "model.path=some/other-model")
    assert result.status == 0
    assert "estimate     none for this model; give --set model.seconds_per_image=S for one\n" in result.out
    assert "compute" not in result.out


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("model.arguments.max_sequence_lenght=8", "did you mean 'max_sequence_length'"),
        ("model.num_frames=9", "model.num_frames: FluxPipeline takes no such argument"),
        (
            "model.height=1001",
            "model.height: got 1001; FluxPipeline draws multiples of 16 pixels, such as 992",
        ),
        (
            "model.width=1016",
            "model.width: got 1016; FluxPipeline draws multiples of 16 pixels, such as 1008",
        ),
        (
            "model.arguments.max_sequence_length=600",
            "model.arguments.max_sequence_length: got 600; FluxPipeline takes a whole number from 1 to 512",
        ),
        ("model.arguments.max_sequence_length=long", "got 'long'; FluxPipeline takes a whole number"),
        ("model.prompts_file=gone.txt", "--set: model.prompts_file: got 'gone.txt', which is no file"),
        ("model.path=./nowhere", "model.path: got './nowhere', which is no folder"),
        ("cases.holdout=61", "cases: got 12 search and 61 held-out cases, 73 together, of 72 prompts"),
    ],
)
def test_what_does_not_fit_is_one_line(setting: str, part: str, autotune: Autotune) -> None:
    result = autotune("search", FLUX, "--dry-run", "--set", setting)
    assert result.status == 2
    assert part in result.one_line()


def test_frames_that_no_latents_give_are_refused(autotune: Autotune) -> None:
    path = ROOT / "experiments" / "wan2.1.yaml"
    result = autotune("search", path, "--dry-run", "--set", "model.num_frames=80")
    assert result.status == 2
    assert "model.num_frames: got 80; WanPipeline draws 4k + 1 frames, such as 77 or 81" in result.one_line()


def test_draws_grow_with_what_is_asked_for() -> None:
    plan = draws(load_experiment(FLUX), 1)
    more = draws(load_experiment(FLUX, ["search.trials=61"]), 1)
    # a trial draws its cases, and two A B B A batches of one
    assert (more.cached - plan.cached, more.uncached - plan.uncached) == (12 + 2, 2)
    others = draws(load_experiment(FLUX), 3)
    assert others.uncached - plan.uncached == 2 * (3 + 8), "every further worker measures its A/A floor"
    busy = draws(load_experiment(FLUX), 1, busy=True)
    assert busy.serial - plan.serial == 5 + 2 * 12, "eight loops of warm-up, three times as many rounds"
    more_rounds = 2 * (60 + 17 * 3)  # two more for each of 60 trials and of 17 certified members
    assert (busy.uncached - plan.uncached, busy.cached - plan.cached) == (2 * more_rounds, 2 * more_rounds)
    none = draws(load_experiment(FLUX, ["search.trials=0"]), 1)
    assert none.cached == 12 * (48 + 3 * 2), "the screened warm starts, certified"
    assert none.uncached == 12 * 3 * 2 + 1 + 12, "their timing, and the probes of one picture"
    assert none.serial == plan.serial == 2 + 48 + 3 + 12


def test_what_is_there_is_checked(tmp_path: Path) -> None:
    metrics = load_experiment(ROOT / "experiments" / "dit-xl-2.yaml").metrics
    assert [absent.partition(":")[0] for absent in to_provide(metrics)] == ["metrics.lpips", "metrics.fid"]
    path = tmp_path / "stats.npz"
    changed = load_experiment(
        ROOT / "experiments" / "dit-xl-2.yaml", [f"metrics.reference_stats={path}"]
    ).metrics
    assert f"metrics.reference_stats: {path}" in to_provide(changed)
    path.write_bytes(b"")
    assert len(to_provide(changed)) == 2
    assert changed.lpips is not None
    lpips = changed.lpips.model_copy(update={"weights": str(path)})
    with pytest.raises(ConfigError, match=r"metrics\.lpips\.sha256"):
        to_provide(changed.model_copy(update={"lpips": lpips}))


def test_the_evaluator_draws_as_much_as_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task of a search of one trial and one certified member, counted on the real evaluator."""
    experiment = load_experiment(
        ROOT / "experiments" / "dit-digits.yaml",
        [
            "model.num_steps=3", "search.trials=1", "search.certify=1", "search.certify_rounds=2",
            "cases.search=2", "cases.holdout=3", "cases.batch=1", "cases.sensitivity=1", "tiers={}",
            "model.device=cpu",
        ],
    )  # fmt: skip
    monkeypatch.setattr("autotune.scoring.latency.TOLERANCE", 1e9)  # no rounds but those asked for
    monkeypatch.setattr("autotune.scoring.latency.STABLE", 1e9)
    drawn: list[int] = []
    draw = PipelineRunner.draw

    def counted(self: PipelineRunner, cases: tuple[Case, ...]) -> Drawn:
        drawn.append(len(cases))
        return draw(self, cases)

    monkeypatch.setattr(PipelineRunner, "draw", counted)
    evaluator = evaluator_spec(experiment, tmp_path, None).build()
    cases = experiment.cases
    chosen, held = make_cases(experiment.model.prompts, cases.search, cases.holdout, cases.seed)
    evaluator.profile(chosen[: cases.batch])
    evaluator.baseline(held, experiment.search.certify_rounds)
    planned = draws(experiment, 1)
    assert sum(drawn) == planned.serial
    for step in probe_steps(experiment.model.num_steps):
        evaluator.probe(chosen[: cases.sensitivity], step)
    policy = Policy.from_pattern("F.F", start_block=0)
    evaluator.evaluate(policy, chosen, experiment.search.timing_rounds)
    evaluator.evaluate(policy, held, experiment.search.certify_rounds)
    assert sum(drawn) == planned.total
