"""Experiment files and `--set`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from autotune.scoring.case import make_cases
from autotune.scoring.metrics import METRICS, Direction, Kind
from autotune.search.experiment import Experiment, load_experiment
from autotune.search.identity import effective_key
from autotune.search.model import Model
from autotune.search.objective import (
    HYPERVOLUME_REFERENCE,
    METRIC_NAMES,
    METRIC_OF,
    OBJECTIVES,
    SCALAR_NAMES,
    Bound,
    tail_name,
    violations,
)
from autotune.search.prompts import read_prompts
from autotune.search.run import model_spec
from autotune.search.scorer import Scorer
from tests.search.support import EXPERIMENT, FormulaFactory, merged, write_files
from xslim.errors import ConfigError
from xslim.policy.authors import author_policy, author_schedules
from xslim.policy.policy import Policy

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_experiment_loads_with_its_space(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.space(path).families
    assert Experiment.parse(experiment.to_data()) == experiment


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("search.trials=8", 8),
        ("search.trials=0", 0),
        ("search.max_seconds=5", 5.0),
        ("search.max_seconds=null", None),
        ("search.seed=3", 3),
        ("cases.search=2", 2),
        ("cases.holdout=12", 12),
        ("cases.seed=9", 9),
        ("executor.kind=ray", "ray"),
        ("executor.workers=3", 3),
        ("model.path=007", "007"),
        ("model.path=a=b: [c]", "a=b: [c]"),
        ("objectives=[compute_fraction, fid, memory]", ("compute_fraction", "fid", "memory")),
    ],
)
def test_an_override_replaces_one_key(tmp_path: Path, override: str, value: object) -> None:
    path = write_files(tmp_path)
    found: Any = load_experiment(path, [override])
    for name in override.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value


def test_the_last_override_of_a_key_wins_and_the_rest_stays(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    experiment = load_experiment(path, ["search.trials=8", "cases.batch=3", "search.trials=9"])
    assert experiment.to_data() == merged(
        load_experiment(path).to_data(), {"search.trials": 9, "cases.batch": 3}
    )


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("search.trails=8", ("search.trails", "did you mean 'trials'")),
        ("serch.trials=8", ("serch", "did you mean 'search'")),
        ("search.trials=eight", ("search.trials", "'eight'", "integer")),
        ("search.trials=8.5", ("search.trials", "8.5")),
        ("search.trials=-1", ("search.trials", "-1", "greater than or equal to 0")),
        ("search.trials=", ("search.trials", "None")),
        ("search.trials=[", ("search.trials", "not plain YAML")),
        ("search.trials", ("'search.trials'", "KEY=VALUE")),
        ("=8", ("'=8'", "KEY=VALUE")),
        ("search=8", ("search", "8")),
        ("name.first=8", ("name", "holds a value")),
        ("cases.search=1", ("cases.search", "greater than or equal to 2")),
        ("executor.kind=slurm", ("executor.kind", "'slurm'", "'local' or 'ray'")),
        ("objectives=[latency, speed]", ("objectives.1", "'speed'", "latency, compute_fraction, lpips")),
        ("objectives=[latency, latency]", ("objectives", "twice")),
        ("objectives=[latency]", ("objectives", "at least 2")),
        ("objectives=[latency, psnr, ssim, lpips]", ("objectives", "at most 3")),
        ("objectives=latency", ("objectives", "'latency'")),
        ("bounds.psnr={min: 1, max: 2}", ("bounds.psnr", "min or max")),
        ("bounds.psnr={}", ("bounds.psnr", "min or max")),
        ("bounds.psnr_p99={min: 1}", ("bounds.psnr_p99", "psnr_p5")),
        ("tiers.high={lpips_p5: {max: 1}}", ("tiers.high.lpips_p5", "lpips_p95")),
        ("name=../up", ("name", "'../up'")),
        ("schema_version=2", ("schema_version", "2")),
        ("model.prompts=[]", ("model.prompts", "at least 1")),
        ("model.prompts=[one, two, one]", ("model.prompts.2", "'one' again", "as prompts.0")),
        ("model.prompts=[one, ' ']", ("model.prompts.1", "empty")),
        ("model.prompts=null", ("model.prompts", "None")),
        ("model.arguments.height=8", ("model.arguments.height", "set model.height")),
        ("model.arguments.prompt=one", ("model.arguments.prompt", "set model.prompts")),
        ("model.arguments.output_type=pil", ("model.arguments.output_type", "the measurement sets it")),
        ("model.arguments.scale=.nan", ("model.arguments.scale", "plain YAML values")),
        ("model.height=7", ("model.height", "greater than or equal to 8")),
        ("model.num_frames=0", ("model.num_frames", "greater than or equal to 1")),
        ("model.offload=disk", ("model.offload", "'disk'", "'none', 'model', 'sequential' or 'group'")),
        ("model.memory.vae_tile=true", ("model.memory.vae_tile", "did you mean 'vae_tiling'")),
        ("model.compile=reduce-overhead", ("model.compile", "'default' or 'max-autotune-no-cudagraphs'")),
        ("model.dtype=int8", ("model.dtype", "'float32', 'bfloat16' or 'float16'")),
        ("model.component_dtypes.vae=half", ("model.component_dtypes.vae", "'half'")),
        ("model.seconds_per_image=0", ("model.seconds_per_image", "greater than 0")),
    ],
)
def test_an_override_at_fault_is_one_line(tmp_path: Path, override: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write_files(tmp_path), [override])
    line = str(caught.value)
    assert line.startswith("--set")
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_a_fault_of_the_file_names_the_file(tmp_path: Path) -> None:
    path = write_files(tmp_path, {"cases.search": 1})
    with pytest.raises(ConfigError, match=r"experiment\.yaml: cases\.search: got 1"):
        load_experiment(path, ["search.trials=3"])
    assert load_experiment(path, ["cases.search=2"]).cases.search == 2


def test_prompts_have_to_come_from_somewhere(tmp_path: Path) -> None:
    model = {key: value for key, value in EXPERIMENT["model"].items() if key != "prompts"}
    path = write_files(tmp_path, {"model": model})
    with pytest.raises(ConfigError, match=r"model\.prompts: neither is given; write one of prompts and prom"):
        load_experiment(path)


def test_prompts_come_from_one_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    path = write_files(tmp_path, {"model.prompts_file": "a.txt"})
    with pytest.raises(ConfigError, match=r"model\.prompts: both are given; keep one of prompts"):
        load_experiment(path)
    assert load_experiment(path, ["model.prompts=[4, 5]"]).model.prompts == (4, 5)
    assert load_experiment(path, ["model.prompts_file=a.txt"]).model.prompts == ("one",)


def test_every_key_of_the_model_reaches_the_spec(tmp_path: Path) -> None:
    """What an experiment says of model and request is what a worker loads and calls."""
    keys: dict[str, Any] = {
        "path": "some/model", "revision": "main", "variant": "fp16", "num_steps": 7, "guidance_scale": 2.5,
        "height": 64, "width": 96, "num_frames": 9, "arguments": {"eta": 0.0, "template": {"a": ["b", 1]}},
        "dtype": "bfloat16", "component_dtypes": {"vae": "float32"}, "device": "cuda:1", "offload": "group",
        "memory": {"vae_tiling": True, "vae_slicing": False}, "attention_backend": "native",
        "compile": "default",
    }  # fmt: skip
    data = {**keys, "prompts": ["one"], "seconds_per_image": 3.0, "sustained_tflops": 5.0}
    assert set(data) == set(Model.model_fields) - {"prompts_file"}
    spec = model_spec(load_experiment(write_files(tmp_path, {"model": data, "cases.batch": 3})))
    assert asdict(spec) == {**keys, "batch": 3}


@pytest.mark.parametrize("model", ["flux-dev", "hunyuan-video"])
def test_the_authors_modes_are_among_the_first_points(model: str) -> None:
    space = load_experiment(ROOT / "experiments" / f"{model}.yaml").space(ROOT / "experiments/x")
    published = {"flux-dev": "flux.1-dev", "hunyuan-video": "hunyuanvideo"}[model]
    family = space.families["authors"]
    built = [family.build({**family.middle(), **seed}, {}, None) for seed in family.seeds]
    modes = author_schedules()[published].modes
    assert [effective_key(policy) for policy in built] == [
        effective_key(author_policy(published, mode)) for mode in modes
    ]
    assert next(iter(space.families)) == "authors"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_held_out_prompts_of_large_models_are_new(path: Path) -> None:
    """Where there are prompts enough, none is searched on and certified on."""
    experiment = load_experiment(path)
    cases = experiment.cases
    chosen, held = make_cases(experiment.model.prompts, cases.search, cases.holdout, cases.seed, cases.repeat)
    shared = {case.prompt for case in chosen} & {case.prompt for case in held}
    assert bool(shared) is (path.stem.endswith("digits"))


def test_a_missing_space_is_named(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    (tmp_path / "space.yaml").unlink()
    with pytest.raises(ConfigError, match=r"space\.yaml: cannot read"):
        load_experiment(path).space(path)


def test_names_and_directions_agree_with_the_metrics() -> None:
    for metric in METRICS.values():
        assert METRIC_NAMES[metric.name] is (metric.direction is Direction.MAXIMIZE)
        if metric.kind is not Kind.SET:
            assert tail_name(metric.name) == f"{metric.name}_p{metric.tail_q}"
            assert METRIC_OF[tail_name(metric.name)] == metric.name
            assert tail_name(metric.name) in SCALAR_NAMES
    assert set(METRIC_NAMES) - set(METRICS) == {"latency", "compute_fraction", "memory"}
    assert set(HYPERVOLUME_REFERENCE) == set(OBJECTIVES)


def test_every_pair_of_objectives_is_accepted() -> None:
    for first in OBJECTIVES:
        for second in OBJECTIVES:
            if first != second:
                assert Experiment.parse(merged(EXPERIMENT, {"objectives": [first, second]}))


@pytest.mark.parametrize(
    ("bound", "value", "broken"),
    [
        ({"min": 25.0}, 25.0, False),
        ({"min": 25.0}, 24.9, True),
        ({"max": 0.1}, 0.1, False),
        ({"max": 0.1}, 0.11, True),
        ({"max": 0.0}, 0.0, False),
        ({"max": 0.0}, 1e-9, True),
        ({"max": -1.0}, -2.0, False),
    ],
)
def test_a_bound_is_broken_above_zero(bound: dict[str, float], value: float, broken: bool) -> None:
    assert (Bound(**bound).violation(value) > 0) is broken
    assert list(violations({"b": Bound(**bound), "a": Bound(max=1e9)}, {"a": 1.0, "b": value})) == ["a", "b"]


def test_a_bound_on_what_is_not_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"bounds\.fdi: unknown scalar; measured are fid"):
        violations({"fdi": Bound(max=1.0)}, {"fid": 3.0})


def test_every_scalar_may_be_bounded_and_is_measured() -> None:
    cases = make_cases([0, 1], 4, 4, 0)[0]
    measured = FormulaFactory().build().evaluate(Policy.from_pattern("F." * 6), cases, 1)
    scalars = Scorer(measured.quality.features).scalars(measured)
    assert set(OBJECTIVES) < set(scalars) < set(SCALAR_NAMES)
    bounds = {name: {"max": 1.0} for name in SCALAR_NAMES}
    every = {"net": "net", "cmmd": {"model": "clip"}}
    every |= {"clip_score": {"model": "clip"}, "image_reward": {"model": "reward"}}
    found = Experiment.parse(merged(EXPERIMENT, {"bounds": bounds, "metrics": every}))
    assert set(found.bounds) == set(SCALAR_NAMES)


def test_only_line_ends_separate_prompts(tmp_path: Path) -> None:
    lines = tmp_path / "prompts.txt"
    lines.write_text("a cat\u2028on a mat\r\ntwo\x85dogs\n", newline="")
    assert read_prompts(lines) == ("a cat\u2028on a mat", "two\x85dogs")
    objects = tmp_path / "prompts.jsonl"
    objects.write_text('{"prompt": "x\u2028y"}\n')
    assert read_prompts(objects) == ("x\u2028y",)
