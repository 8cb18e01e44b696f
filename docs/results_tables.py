"""Writes the tables of `docs/results.md` and of the README from `benchmarks/results/comparison-*.json`.

python docs/results_tables.py
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.compare.printed import leads, ranked
from autotune.compare.recipe import FEWER, OWN
from autotune.compare.taken import taken_from

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
LEADS = re.compile(r"(<!-- leads -->\n).*?(<!-- end of leads -->)", re.DOTALL)
MARKED = re.compile(r"(<!-- tables of (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(page: str) -> str:
    """The page with the tables as the committed measurements have them, between its markers."""

    def filled(found: re.Match[str]) -> str:
        data = json.loads((RESULTS / f"comparison-{found[2]}.json").read_text())
        return f"{found[1]}\n{chr(10).join(section(data))}\n\n{found[3]}"

    return LEADS.sub(
        lambda found: f"{found[1]}\n{chr(10).join(summary())}\n\n{found[2]}", MARKED.sub(filled, page)
    )


def summary() -> Iterator[str]:
    """The leads on all models."""
    yield "| others' cost over ours | fewer steps: compute | time | best other method: compute | time |"
    yield "|---|---|---|---|---|"
    for file in sorted(RESULTS.glob("comparison-*.json")):
        data = json.loads(file.read_text())
        leads = [data["tables"][f"{cost}_lead"] for cost in ("compute_fraction", "latency")]
        cells = [f"{lead['median_over_fewer_steps']:.2f}x" for lead in leads]
        cells += [f"{lead['median_over_best']:.2f}x (least {lead['least_over_best']:.2f}x)" for lead in leads]
        yield f"| `{data['experiment']}` | {' | '.join(cells)} |"


def section(data: Mapping[str, Any]) -> Iterator[str]:
    """What was run, compute of all methods, speedup of the best, and how far ours are ahead."""
    yield from _run(data)
    volumes = data["tables"]["hypervolume"]
    order = sorted(volumes, key=lambda method: (method != OWN, method != FEWER, -volumes[method]))
    compute = data["tables"]["compute_fraction_at_lpips"]
    somewhere = [name for name in order if any(entry["cost"].get(name) for entry in compute)]
    yield from _table("compute fraction", somewhere, compute, data, "{:.3f}".format)
    yield ""
    latency = data["tables"]["latency_at_lpips"]
    timed = [name for name in ranked(data) if any(entry["cost"].get(name) for entry in latency)]
    yield from _table("speedup", timed, latency, data, lambda cost: f"{1 / cost:.2f}x")
    yield ""
    yield from (f"- {line}." for line in leads(data["tables"]))
    for cost, what in (("compute_fraction", "compute"), ("latency", "time")):
        at = data["tables"][f"{cost}_lead"]["at"]
        told = [f"`{e['best']}` ({e['over_best']:.2f}x)" for e in at if e["over_best"] is not None]
        yield f"- Best other method by {what}, from the left: {', '.join(told)}."
    missing = [name for name in order if name not in somewhere]
    if missing:
        yield f"- At none of these LPIPS: {', '.join(f'`{name}`' for name in missing)}."


def _run(data: Mapping[str, Any]) -> Iterator[str]:
    cases, search = data["cases"], data["budgets"][OWN]["search"]
    yield (
        f"{len(data['rows'])} rows on {cases['quality']} held-out cases (seed {cases['seed']}). "
        f"Our search: {search['trials']} trials, {search['images']} pictures, "
        f"{search['wall_s']:.0f} s. Every other method's sweep is in `budgets`."
    )
    timed = {row["method"]: row["speedup"] is not None for row in data["rows"]}
    for source in taken_from(data).sources:
        device, uncached = source["environment"]["device"], source["baseline"]["metrics"].get("speedup")
        yield from ("", "```sh", source["command"], "```", "")
        for what, speed in (
            (f"Timed on {device}, where two uncached runs differed by {uncached:.2f}x", True),
            (f"On {device}, without a speedup here", False),
        ):
            methods = [f"`{name}`" for name in source["methods"] if timed.get(name) is speed]
            if methods:
                yield from ("", f"{what}: {', '.join(methods)}.")
    yield ""
    reasons: dict[tuple[str, str], int] = defaultdict(int)
    for point in data["not_run"]:
        reasons[point["method"], point["reason"]] += 1
    if reasons:
        told = "; ".join(f"`{m}` ({n} points): {reason}" for (m, reason), n in reasons.items())
        yield from (f"Not run: {told}.", "")


def _table(
    what: str,
    methods: Sequence[str],
    entries: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    form: Callable[[float], str],
) -> Iterator[str]:
    heads = [f"{e['lpips']:.2g} ({round(e['share'] * data['num_steps'])})" for e in entries]
    yield f"| {what} | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for method in methods:
        costs = [(e["cost"].get(method), method in e["ended"]) for e in entries]
        cells = ["" if cost is None else form(cost) + "*" * ended for cost, ended in costs]
        yield f"| `{method}` | {' | '.join(cells)} |"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text()))
