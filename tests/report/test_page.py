"""The page as text: what stands in it, what is escaped, and what is said of folders at fault."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotune.cli.show import print_summary
from autotune.compare.comparison import read_comparison
from autotune.report import figures
from autotune.report.figures import write_figures
from autotune.report.history import history
from autotune.report.importance import importances
from autotune.report.page import page, write_page
from autotune.report.strips import strips
from autotune.report.timeline import timelines
from autotune.report.words import column_title, metric_title, number, settings
from tests.report.conftest import read
from tests.report.made import HOSTILE, comparison, write_comparison
from xslim.errors import ConfigError
from xslim.policy.policy import DualThreshold


class Found(HTMLParser):
    """Elements and texts of a page, scripts apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


def test_every_section_is_there(folder: Path) -> None:
    write_comparison(folder)
    found = Found(write_page(read(folder)).read_text())
    sections = [a["id"] for a in found.all("section")]
    assert sections == ["frontier", "strips", "worst", "timelines", "search", "tables", "provenance"]
    assert {a["href"] for a in found.all("a")} == {"#main", *(f"#{name}" for name in sections)}
    summary = json.loads((folder / "summary.json").read_text())
    names = [Path(member["preset"]).stem for member in summary["front"]]
    assert [a["data-pick"] for a in found.all("button", type="button") if "data-pick" in a] == names
    for name, member in zip(names, summary["front"], strict=True):
        assert f'preset = xslim.load_preset("{folder}/presets/{name}.yaml")' in found.text
        assert f"{member['speedup']:.2f}x" in found.text
    assert "session = xslim.attach(pipe, preset)" in found.text
    assert "autotune search formula.yaml --out runs/formula" in found.text
    assert all(a.get("scope") for a in found.all("th"))
    assert all(a.get("alt") for a in found.all("img"))


def test_the_frontier_has_trials_presets_and_methods(folder: Path) -> None:
    write_comparison(folder)
    data = Found(page(read(folder))).data["frontier"]
    kinds = [(group["kind"], group.get("method")) for group in data["groups"]]
    methods = [("method", name) for name in ("autotune", "fewer-steps", "teacache", "dpcache")]
    assert kinds == [("trials", None), ("presets", None), *methods]
    teacache = data["groups"][4]["points"][0]
    assert teacache["values"]["speedup"] == 2.0
    assert teacache["ci"]["speedup"] == [1.9, 2.1]
    assert [axis["key"] for axis in data["x"]] == ["speedup", "compute_fraction"]
    lpips = data["y"][0]
    assert (lpips["key"], lpips["log"], lpips["better"]) == ("lpips", True, "lower is better")
    member = json.loads((folder / "summary.json").read_text())["front"][0]
    preset = data["groups"][1]["points"][0]
    assert preset["pick"] == "front-00"
    assert preset["ci"]["psnr"] == member["holdout"]["psnr"]["ci95"]
    assert preset["values"]["lpips"] == member["holdout"]["lpips"]["value"]


def test_equal_quality_speed_volumes_leads_and_budgets_are_shown(folder: Path) -> None:
    lead = {"at": [{}, {}], "reached": 1, "median_over_best": 1.5, "least_over_best": 1.25}
    entry = {"lpips": 0.0123, "share": 0.5, "new": 1, "cost": {"fewer-steps": 0.5, "autotune": 0.4}}
    tables = {
        "hypervolume": {"fewer-steps": 0.31, "autotune": 0.42},
        "compute_fraction_at_lpips": [{**entry, "cost": {**entry["cost"], "dpcache": None}}],
        "compute_fraction_lead": {**lead, "median_over_fewer_steps": 1.75},
        "latency_at_lpips": [entry],
        "latency_lead": {**lead, "median_over_best": None},
        "lpips_at_speedup": [{"speedup": 2.0, "lpips": {"fewer-steps": 0.02, "autotune": 0.017}}],
        "unknown": {},
    }
    write_comparison(folder, tables=tables)
    found = Found(page(read(folder)))
    ids = [a["id"] for a in found.all("table") if "id" in a]
    wanted = [
        "equal-compute",
        "equal-latency",
        "equal-speed",
        "hypervolume",
        "methods",
        "left-out",
        "budgets",
    ]
    assert [i.removeprefix("table-") for i in ids if i and i.removeprefix("table-") in wanted] == wanted
    assert "method 0.0123 (6 of 12 steps) autotune 0.400 Fewer steps 0.500" in found.text
    assert "autotune 2.50x Fewer steps 2.00x" in found.text  # one over 0.4 and 0.5
    assert "autotune 0.017 Fewer steps 0.02" in found.text
    assert "autotune 0.42 Fewer steps 0.31" in found.text
    assert (
        "autotune: 1.50x less compute than the best other method (median over 1 of 2 LPIPS, least 1.25x), "
        "1.75x less than fewer-steps."
    ) in found.text
    assert "less time" not in found.text
    assert "autotune 3 100 5.0 14 900 61.5 TeaCache 3 12 2.5" in found.text
    assert "Worst of the comparison's cases of each row of ours" in found.text
    assert "autotune-4.5 lpips_digits" in found.text


def test_two_presets_of_one_trial_are_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `search.rectify` a second preset of the same trial has another policy and other values."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    tier, chosen = next(iter(summary["tiers"].items()))
    other = json.loads(json.dumps(next(m for m in summary["front"] if m["trial"] == chosen["trial"])))
    name = Path(other["preset"]).stem
    data = yaml.safe_load((folder / other["preset"]).read_text())
    data["policy"]["predictor"] = {"kind": "foca"}
    (folder / "presets" / "front-90.yaml").write_text(yaml.safe_dump(data))
    other["preset"], other["speedup"] = "presets/front-90.yaml", other["speedup"] + 0.5
    other["holdout"]["lpips"]["value"] *= 2
    summary["front"] = [*summary["front"], other]
    path.write_text(json.dumps(summary))
    search = read(folder)
    tiers = {member.name: member.tiers for member in search.members}
    assert tier in tiers[name]
    assert tiers["front-90"] == ()
    points = Found(page(search)).data["frontier"]["groups"][0]["points"]
    (trial,) = [p for p in points if p["lines"][0].startswith(f"trial {chosen['trial']},")]
    assert trial["pick"] == name, "the preset with the trial's own policy"
    print_summary(summary, folder)
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if "front-" in line}
    assert tier in lines[name]
    assert tier not in lines["front-90"]


def test_nothing_is_fetched(folder: Path) -> None:
    write_comparison(folder)
    text = page(read(folder))
    found = Found(text)
    for tag, attributes in found.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
    ours = text.replace(found.scripts[1], "")  # plotly names pages in its messages
    assert not re.findall(r"https?://|@import|url\(", ours)
    (policy,) = found.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert str(policy["content"]).startswith("default-src 'none'")


def test_texts_of_others_are_escaped(folder: Path) -> None:
    """Experiment, prompts, methods, policies, notes: none of them becomes an element or ends a script."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["experiment"] = HOSTILE
    summary["warnings"] = [HOSTILE]
    summary["environment"]["device"] = HOSTILE
    for entry in summary["front"][0]["holdout"].values():
        if "worst" in entry:
            entry["worst"]["prompt"] = HOSTILE
    path.write_text(json.dumps(summary))
    write_comparison(folder, command=HOSTILE, device=HOSTILE, nets={"lpips": HOSTILE})
    data = json.loads((folder / "comparison.json").read_text())
    data["rows"][0] |= {"title": HOSTILE, "source": HOSTILE, "notes": [HOSTILE], "config": {HOSTILE: HOSTILE}}
    (folder / "comparison.json").write_text(json.dumps(data))
    found = Found(page(read(folder)))
    assert len(found.all("script")) == 3
    assert len(found.scripts) == 3
    assert not any("onerror" in attributes for _, attributes in found.tags)
    assert "<" not in found.scripts[0]
    assert found.data["frontier"]["groups"][2]["name"] == HOSTILE
    assert found.text.count(HOSTILE) >= 8


def test_a_running_search_is_marked_partial(folder: Path) -> None:
    (folder / "summary.json").unlink()
    search = read(folder, "the search is running, 30 of 60 trials are in")
    found = Found(page(search))
    assert "Partial: this search is not finished." in found.text
    assert "the search is running, 30 of 60 trials are in" in found.text
    assert "There is no preset yet" in found.text
    assert "load_preset" not in found.text
    rows = search.rows
    best = [rows[i] for i in range(len(rows)) if f"trial-{rows[i].trial:04d}" in found.text]
    assert best
    for row in best:  # nothing that holds the bound is better in both
        assert not any(
            o.scalars["latency"] < row.scalars["latency"] and o.scalars["psnr"] > row.scalars["psnr"]
            for o in rows
            if search.counts_for_front(o)
        )


def test_a_finished_search_is_not_partial(folder: Path) -> None:
    assert "Partial" not in Found(page(read(folder))).text
    write_comparison(folder, partial=True)
    assert "Partial: the comparison is not finished." in Found(page(read(folder))).text


def test_without_trials_there_is_nothing_to_report(folder: Path) -> None:
    (folder / "summary.json").unlink()
    (folder / "results.jsonl").write_text("")
    with pytest.raises(ConfigError, match="the search is running; there is nothing to report yet"):
        read(folder, "the search is running")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "unreadable; delete it and run `autotune compare` again"),
        ("[]", "schema_version: got None, allowed is 1"),
        (
            '{"schema_version": 2}',
            "schema_version: got 2, allowed is 1; update autotune, or delete it",
        ),
        ('{"schema_version": 1, "experiment": "x", "num_steps": 0}', "num_steps"),
        (json.dumps({**comparison(), "rows": [{}]}), "rows.0.id"),
        (json.dumps({**comparison(), "tables": {"hypervolume": []}}), "tables.hypervolume"),
    ],
)
def test_a_comparison_at_fault_is_one_line(text: str, said: str, folder: Path) -> None:
    (folder / "comparison.json").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        page(read(folder))
    line = str(error.value)
    assert line.startswith(str(folder / "comparison.json"))
    assert line.endswith("delete it and run `autotune compare` again")
    with pytest.raises(ConfigError) as resumed:
        read_comparison(folder)
    assert str(resumed.value) == line


def test_timelines_show_the_estimate_between_its_lines(folder: Path) -> None:
    search = read(folder)
    found = {one.name: one for one in timelines(search)}
    assert set(found) == {member.name for member in search.members}
    online = 0
    for member in search.members:
        one = found[member.name]
        assert "".join(step.action for step in one.steps) == member.actions
        assert one.curve is not None
        assert member.preset is not None
        rule = member.preset.policy.controller
        if isinstance(rule, DualThreshold):
            online += 1
            assert one.curve.lines == {"warning": rule.warning, "critical": rule.critical}
            last = dict(one.curve.points)
            assert all(value < rule.critical for value in last.values())  # after each decision
            full = [i for i, letter in enumerate(member.actions) if letter == "F"]
            assert all(last[float(i)] == 0.0 for i in full)
        else:
            assert one.curve.lines == {}
            zero = [value for step, value in one.curve.points if member.actions[int(step)] == "F"]
            assert zero == pytest.approx([0.0] * len(zero), abs=1e-6)
    assert online


def test_without_a_profile_the_actions_remain(folder: Path) -> None:
    (folder / "profile.json").unlink()
    search = read(folder)
    for one, member in zip(timelines(search), search.members, strict=True):
        assert "".join(step.action for step in one.steps) == member.actions
        assert one.curve is None
        assert "no profile" in one.note


def test_plots_are_written(folder: Path) -> None:
    write_comparison(folder)
    for path in write_figures(read(folder)):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert (folder / "comparison.png").exists()


def test_an_exact_row_leaves_the_scale_logarithmic(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_comparison(folder)
    data = json.loads((folder / "comparison.json").read_text())
    data["rows"][0]["metrics"]["lpips"] = 0.0
    (folder / "comparison.json").write_text(json.dumps(data))
    drawn: list[Any] = []
    finish = figures.finish
    monkeypatch.setattr(
        figures, "finish", lambda path, figure, axes: (drawn.append(axes), finish(path, figure, axes))[1]
    )
    write_figures(read(folder))
    (axes,) = drawn
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel().endswith("lower is better; 0 lies below")


def test_an_untimed_comparison_is_drawn_by_compute(folder: Path) -> None:
    write_comparison(folder)
    data = json.loads((folder / "comparison.json").read_text())
    for row in data["rows"]:
        row |= {"speedup": None, "ci95": {}}
    (folder / "comparison.json").write_text(json.dumps(data))
    search = read(folder)
    assert "speedup" not in Found(page(search)).data["frontier"]["groups"][2]["points"][0]["values"]
    assert len(write_figures(search)) == 2
    assert [strip.lines[1].about.split(",")[0] for strip in strips(search).strips] == [
        "compute 0.450", "compute 0.300", "compute 0.200"
    ]  # fmt: skip


def test_numbers_and_names() -> None:
    assert number("speedup", 4.398) == "4.40x"
    assert number("psnr_p5", 33.84) == "33.8 dB"
    assert number("memory", 3 * 2**20) == "3.0 MiB"
    assert number("lpips", None) == ""
    assert metric_title("lpips_p95", {"lpips": "lpips_digits"}) == "lpips_digits p95"
    assert metric_title("psnr_p5", {}) == "PSNR p5 (dB)"
    assert column_title("lpips_p95", {"lpips": "lpips_digits"}) == "p95"
    assert settings({"critical": 0.1 * 3, "mode": "fast"}) == "critical=0.3, mode=fast"


def test_importances_find_the_key_that_matters(folder: Path) -> None:
    """The formula's cost hangs on the number of full steps of a pattern, and on no other key as much."""
    found = {(one.family, one.objective): one for one in importances(read(folder))}
    one = found["pattern", "latency"]
    assert next(iter(one.shares)) == "schedule.full_steps"
    assert sum(one.shares.values()) == pytest.approx(1.0)
    assert one.explained > 0.3
    assert one.trials >= 10


def test_the_history_never_falls(folder: Path) -> None:
    search = read(folder)
    found = history(search)
    volumes = found["hypervolume"]
    assert volumes == sorted(volumes)
    assert search.summary is not None
    assert volumes[-1] == pytest.approx(search.summary["hypervolume"], rel=1e-4)
    assert found["trials"] == list(range(1, 31))
    assert found["kind"] == "speedup"
    assert set(found["best"]) == {"bounds", "high", "fast"}
    for values in found["best"].values():
        known = [value for value in values if value is not None]
        assert known == sorted(known)
