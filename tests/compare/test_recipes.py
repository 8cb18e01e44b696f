"""The shipped recipes: published settings, every point makes a policy, and the registry's refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.compare.entrants import Entrant, NotRun, entrants_of, learned_entrants
from autotune.compare.makers import MAKERS
from autotune.compare.methods import check_names, choose, family_of, load_recipes
from autotune.compare.recipe import Recipe, Sweep
from autotune.compare.settings import SETTINGS
from autotune.scoring.learning import LEARNERS
from autotune.scoring.lesson import LESSONS
from tests.compare.support import METHODS, RECIPES, bench, made, recipe
from tests.search.test_refined import lessons
from xslim.errors import ConfigError
from xslim.policy.authors import author_policy

FAMILIES = ("dit", "flux", "hunyuanvideo")
# of the issue: every method of the field
NEEDED = {
    *("fewer-steps", "fewer-steps-dpm-solver", "fora", "teacache", "teacache-refitted", "first-block-cache"),
    *(
        "dbcache",
        "magcache",
        "easycache",
        "taylorseer",
        "taylorseer-order-0",
        "taylorseer-order-2",
        "tc-pade",
    ),
    *("ertacache", "smoothcache", "dpcache", "lemica", "bac", "profiling-dit", "delta-dit", "toca", "duca"),
    *("harmonica", "compensation-affine", "compensation-mlp", "recap", "xslim-authors", "xslim-authors-step"),
}


def test_every_method_is_there() -> None:
    assert set(RECIPES) >= NEEDED


def test_the_recipes_of_the_docs_are_valid(tmp_path: Path) -> None:
    text = (METHODS.parents[1] / "docs" / "compare.md").read_text()
    found = dict(re.findall(r"```yaml\n# methods/(\S+?\.yaml)(.*?)```", text, re.DOTALL))
    for name, content in found.items():
        (tmp_path / name).write_text("#" + content)
    known = load_recipes(METHODS, tmp_path)
    assert {f"{name}.yaml" for name in set(known) - set(RECIPES)} == set(found) != set()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_point_makes_a_policy_of_its_own(family: str) -> None:
    for chosen in choose(RECIPES, None, family):
        points = entrants_of(chosen, bench(steps=50), 6)
        assert not [p for p in points if isinstance(p, NotRun)], points
        assert len({p.id for p in points if isinstance(p, Entrant)}) == len(points)
        if chosen.peer is None:
            data = [(p.policy, p.sampling, p.learn) for p in points if isinstance(p, Entrant)]
            assert len({repr(d) for d in data}) > 1, f"{chosen.method}: its knob does nothing"


def test_points_of_a_method_learn_with_their_own_settings(tmp_path: Path) -> None:
    recipe = RECIPES["harmonica"].of_family("dit")
    points = [point for point in entrants_of(recipe, bench(), 4) if isinstance(point, Entrant)]
    learned_entrants(points, lessons(tmp_path))
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [f"harmonica {{'beta': {beta}, 'rollouts': 12}}" for beta in recipe.sweep.values]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_tells_its_source(name: str) -> None:
    told = RECIPES[name]
    assert re.search(r"arXiv:\d{4}\.\d{5}|diffusers|cache-dit|scheduler", told.source), told.source
    assert len(told.sweep.values) >= 4 or name.startswith("xslim-authors")


def test_published_numbers() -> None:
    flux = made("teacache", 0.6, "flux").policy.indicator.calibration["modulated_input"]
    assert flux(0.1) == pytest.approx(0.0498651651 - 0.283781631 + 0.558554382 - 0.382021401 + 0.264230861)
    hunyuan = made("teacache", 0.15, "hunyuanvideo").policy.indicator.calibration["modulated_input"]
    assert hunyuan(0.0) == pytest.approx(0.0961237896)
    assert made("xslim-authors", "fast", "flux").policy == author_policy("flux.1-dev", "fast")
    assert made("xslim-authors-step", "S-slow", "hunyuanvideo").policy == author_policy(
        "hunyuanvideo", "S-slow"
    )
    magcache = made("magcache", 6, "hunyuanvideo").policy.controller
    assert (magcache.critical, magcache.warmup, magcache.max_consecutive_skips) == (0.24, 10, 6)


def test_fewer_steps_take_a_share() -> None:
    found = made("fewer-steps", 0.4, on=bench(steps=50))
    assert found.sampling.num_steps == 20
    assert found.policy.num_steps == 20
    other = made("fewer-steps-dpm-solver", 0.2, on=bench(steps=50))
    assert other.sampling.scheduler is not None
    assert other.sampling.scheduler.name == "DPMSolverMultistepScheduler"


def test_points_are_spread_over_the_range() -> None:
    sweep = Sweep(key="settings.x", values=tuple(range(10)))
    assert sweep.points(4) == (0, 3, 6, 9)
    assert sweep.points(1) == (0,)
    assert sweep.points(99) == tuple(range(10))
    assert sweep.model_copy(update={"least": 10}).points(4) == tuple(range(10))


def test_a_family_replaces_settings_whole_and_policies_by_key() -> None:
    authors = recipe("xslim-authors", "dit")
    assert authors.settings == {"means": 1.0}
    policy = recipe("magcache", "hunyuanvideo").policy
    assert policy is not None
    assert policy["controller"]["warmup"] == 10
    assert policy["indicator"] == {"signals": {"gamma": 1.0}}


def test_a_method_for_other_families_is_left_out_or_refused() -> None:
    assert "teacache" not in [r.method for r in choose(RECIPES, None, "dit")]
    with pytest.raises(ConfigError, match="'teacache', which is for flux, hunyuanvideo; the model is a dit"):
        choose(RECIPES, ["teacache"], "dit")


def test_a_familys_name_is_known_before_the_model_is_loaded(tmp_path: Path) -> None:
    assert family_of("experiments/models/flux-digits") == "flux"
    assert family_of("black-forest-labs/FLUX.1-dev") == "flux"
    assert family_of("nobody/knows-it") is None
    assert family_of(str(tmp_path)) is None


def test_fewer_steps_are_always_compared() -> None:
    assert [r.method for r in choose(RECIPES, ["fora"], "dit")] == ["fewer-steps", "fora"]


def test_an_unknown_method_gets_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match=r"compare\.methods: got 'teacach'; did you mean 'teacache'\?"):
        check_names(RECIPES, ["autotune", "teacach"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("method: fora", "method: forra"),
            "method: got 'forra'; name it as its file",
        ),
        (lambda text: text.replace("key: policy.controller.every", "key: policy.nothing.every"), "sweep.key"),
        (lambda text: text.replace("title:", "titel:"), "titel: unknown key; did you mean 'title'"),
        (lambda text: text + "make: unifrom\n", "make: got 'unifrom'; did you mean 'uniform'"),
        (lambda text: text + "settings: {evry: 3}\n", "settings.evry: unknown key; there is nothing to set"),
        (
            lambda text: text + "make: least-sum\nsettings: {share: half}\n",
            "settings.share: got 'half'; input should be a valid number",
        ),
        (
            lambda text: text + "make: bac\nsettings: {share: 0.2, bubling: 3}\n",
            "settings.bubling: unknown key; did you mean 'bubbling'",
        ),
        (lambda text: text + "learn: {harmonika: {}}\n", "learn: got 'harmonika'; did you mean 'harmonica'"),
        (lambda text: text + "learn: {harmonica: {beta: 1}}\n", "learn.harmonica.rollouts: missing"),
        (lambda text: text.replace("kind: hold", "kind: hould"), "policy.predictor.kind: got 'hould'"),
        (
            lambda text: text.replace("controller:", "controler:"),
            "policy.controler: unknown key; did you mean 'controller'",
        ),
        (
            lambda text: text.replace("policy:", "make: calibrated\npolicy:\n  indicator: 3"),
            "policy.indicator: ",
        ),
        (lambda text: text.replace("[2, 3, 4", "[-2, 3, 4"), "policy.controller.every"),
        (lambda text: text.replace("[2, 3, 4", "[2, 2, 4"), "sweep.values.1: got 2 twice"),
        (lambda text: text.replace("[2, 3, 4", "[.nan, 3, 4"), "sweep.values.0: got nan"),
        (
            lambda text: text + "peer: {library: diffusers, config: MagCacheConfig}\n",
            "policy: a peer brings its own cache",
        ),
        (
            lambda text: text + "peer: {library: diffusers, config: MagCache}\n",
            "peer.config: got 'MagCache'; did you mean 'MagCacheConfig'",
        ),
        (lambda text: text + "families: [fluks]\n", "families: got 'fluks'; did you mean 'flux'"),
        (lambda text: text + "by_family: {ditt: {}}\n", "by_family: got 'ditt'; did you mean 'dit'"),
    ],
)
def test_a_recipe_at_fault_is_one_line(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = tmp_path / "fora.yaml"
    path.write_text(change((METHODS / "fora.yaml").read_text()))
    with pytest.raises(ConfigError, match=re.escape(message)) as told:
        load_recipes(tmp_path)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_the_names_that_comparisons_live_by_are_kept() -> None:
    with pytest.raises(ConfigError, match=r"^method: 'autotune' is the name of the search's own presets"):
        Recipe.parse({**recipe("fora").to_data(), "method": "autotune"})
    data = {**recipe("fewer-steps").to_data(), "make": "policy", "settings": {}}
    data |= {"sampling": {"num_steps": 20}, "sweep": {"key": "sampling.num_steps", "values": [10, 20]}}
    with pytest.raises(ConfigError, match=r"^sweep\.key: all is compared with these steps"):
        Recipe.parse(data)


def test_every_maker_and_learner_says_what_may_be_set() -> None:
    assert set(SETTINGS) == set(MAKERS)
    assert set(LESSONS) == set(LEARNERS)
