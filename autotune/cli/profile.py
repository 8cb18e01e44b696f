"""`autotune profile`: signals and their calibration, step curve, sensitivity, reference outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.common import Json, Overrides, say
from autotune.search.experiment import load_experiment
from autotune.search.store import RunFolder
from xslim.policy.preset import load_preset, save_preset


def profile(
    experiment: Annotated[Path, typer.Argument(help="experiment YAML")],
    out: Annotated[Path | None, typer.Option(help="output folder [default: runs/<name>-profile]")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    rectify: Annotated[
        str | None, typer.Option(help="preset to fit a corrector for; writes rectified.yaml")
    ] = None,
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="with --rectify: one line for every channel")
    ] = False,
) -> None:
    """Profile the uncached model: write `profile.json` and the reference outputs."""
    loaded = load_experiment(experiment, overrides or ())
    preset = None if rectify is None else load_preset(rectify)
    folder = RunFolder(out or Path("runs") / f"{loaded.name}-profile")

    from autotune.scoring.case import make_cases
    from autotune.scoring.rectify import fit_preset
    from autotune.search.run import evaluator_spec

    spec = evaluator_spec(loaded, folder.path, None)
    folder.acquire()
    try:
        say("profiling the uncached model")
        cases, _ = make_cases(
            loaded.model.prompts, loaded.cases.search, 0, loaded.cases.seed, loaded.cases.repeat
        )
        evaluator = spec.build()
        taken = evaluator.profile(cases, loaded.cases.sensitivity)
        say("drawing the reference outputs")
        latency = evaluator.baseline(cases, loaded.search.certify_rounds).latency
        path = folder.write("profile.json", taken.to_json())
        rectified = None
        if preset is not None:
            say("fitting the corrector")
            rectified = fit_preset(spec.model, cases, preset, per_channel)
            save_preset(rectified.preset, folder.path / "rectified.yaml")
    finally:
        folder.release()
    if as_json:
        facts = {"profile": str(path), "signal_fit": taken.fit, "change": taken.change.tolist()}
        facts |= {"curve": taken.curve.tolist(), "gamma": taken.gamma.tolist()}
        facts |= {"jumps": taken.jumps, "sigma_windows": taken.sigma_windows}
        if rectified is not None:
            facts["rectified"] = {"before": rectified.before, "after": rectified.after}
        json.dump(facts, sys.stdout)
        sys.stdout.write("\n")
        return
    typer.echo(f"{'signal':18} rank correlation with the residual's true change")
    for name, value in sorted(taken.fit.items(), key=lambda item: -item[1]):
        typer.echo(f"{name:18} {value:.3f}")
    if taken.jumps:
        typer.echo(f"the residual jumps before step {', '.join(map(str, taken.jumps))}")
        typer.echo(f"guards.sigma_windows: {[list(window) for window in taken.sigma_windows]}")
    if latency is not None:
        typer.echo(
            f"uncached: {latency.baseline_s:.2f} s a batch of {latency.batch}, A/A floor {latency.floor:.1%}"
        )
    if rectified is not None:
        typer.echo(
            f"corrector: mean squared error of predicted residuals {rectified.before:.4g} -> "
            f"{rectified.after:.4g} on the half of the cases that it was not fitted on"
        )
        typer.echo(f"without evidence yet, measure before use: {folder.path / 'rectified.yaml'}")
    typer.echo(f"profile: {path}")
    typer.echo(f"references: {spec.references}")
