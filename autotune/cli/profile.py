"""`autotune profile`: signals and their calibration, step curve, cost model, reference outputs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import Json, Overrides, say
from autotune.search.experiment import load_experiment
from autotune.search.store import RunFolder
from xslim.errors import ConfigError
from xslim.policy.preset import load_preset, save_preset

if TYPE_CHECKING:
    from autotune.scoring.cost import CostModel
    from autotune.scoring.measurement import Latency
    from autotune.scoring.profile import Profile
    from autotune.scoring.rectify_preset import CorrectorKind, Rectified


def profile(
    experiment: Annotated[Path, typer.Argument(help="experiment YAML")],
    out: Annotated[Path | None, typer.Option(help="output folder [default: runs/<name>-profile]")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    rectify: Annotated[
        str | None, typer.Option(help="preset to fit a corrector for; writes rectified.yaml")
    ] = None,
    corrector: Annotated[
        str,
        typer.Option(
            help="with --rectify: affine, per-channel (a line for every channel) or mlp (a network, into "
            "rectified.safetensors)"
        ),
    ] = "affine",
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="the same as --corrector per-channel")
    ] = False,
    cost_patterns: Annotated[
        int, typer.Option(min=0, help="random schedules that the cost model is checked on")
    ] = 20,
    cost_cases: Annotated[
        int, typer.Option(min=1, help="pictures of the requests that the cost model is fitted to")
    ] = 4,
) -> None:
    """Profile the uncached model: write `profile.json` and the reference outputs."""
    loaded = load_experiment(experiment, overrides or ())
    preset = None if rectify is None else load_preset(rectify)
    kind = _corrector_kind("per-channel" if per_channel else corrector)
    folder = RunFolder(out or Path("runs") / f"{loaded.name}-profile")

    from autotune.scoring.case import make_cases
    from autotune.scoring.rectify_preset import fit_preset
    from autotune.scoring.sensitivity import probe_steps, sensitivity
    from autotune.search.run import evaluator_spec

    spec = evaluator_spec(loaded, folder.path, None)
    folder.acquire()
    try:
        say("profiling the uncached model")
        wanted = loaded.cases
        cases, _ = make_cases(loaded.model.prompts, wanted.search, wanted.holdout, wanted.seed, wanted.repeat)
        evaluator = spec.build()
        taken = evaluator.profile(cases)
        say(f"probing {len(probe_steps(taken.num_steps))} steps for how much they matter")
        few = cases[: wanted.sensitivity]
        errors = {step: evaluator.probe(few, step) for step in probe_steps(taken.num_steps)}
        taken = taken.with_sensitivity(sensitivity(taken, errors))
        say(f"timing requests for the cost model, {cost_patterns} of them to check it")
        cost = evaluator.cost_model(cases[:cost_cases], cost_patterns)
        path = folder.write("profile.json", replace(taken, cost=cost).to_json())
        say("drawing the reference outputs")
        latency = evaluator.baseline(cases, loaded.search.certify_rounds).latency
        rectified = None
        if preset is not None:
            say("fitting the corrector")
            weights = folder.path / "rectified.safetensors"
            rectified = fit_preset(spec.model, cases, preset, kind, weights)
            save_preset(rectified.preset, folder.path / "rectified.yaml")
    finally:
        folder.release()
    if as_json:
        json.dump(_facts(path, taken, cost, rectified), sys.stdout)
        sys.stdout.write("\n")
        return
    _tell_signals(taken)
    _tell_cost(cost)
    _tell_latency(latency)
    if rectified is not None:
        typer.echo(
            f"corrector: mean squared error of predicted residuals {rectified.before:.4g} -> "
            f"{rectified.after:.4g} on the half of the cases that it was not fitted on"
        )
        typer.echo(f"without evidence yet, measure before use: {folder.path / 'rectified.yaml'}")
    typer.echo(f"profile: {path}")
    typer.echo(f"references: {spec.references}")


def _corrector_kind(given: str) -> CorrectorKind:
    for kind in ("affine", "per-channel", "mlp"):
        if given == kind:
            return kind
    raise ConfigError(f"got {given!r}; allowed: affine, per-channel, mlp", key="--corrector")


def _facts(path: Path, taken: Profile, cost: CostModel, rectified: Rectified | None) -> dict[str, Any]:
    """What `--json` prints."""
    facts: dict[str, Any] = {"profile": str(path), "signal_fit": taken.fit, "change": taken.change.tolist()}
    facts |= {"curve": taken.curve.tolist(), "gamma": taken.gamma.tolist()}
    facts |= {"jumps": taken.jumps, "sigma_windows": taken.sigma_windows}
    facts["cost_model"] = {
        "batch": cost.batch,
        "device": cost.device,
        "counted": cost.counted,
        "steps": {
            name: {"compute_fraction": step.fraction, "seconds": step.seconds}
            for name, step in cost.overview().items()
        },
        "fit": None if cost.fit is None else cost.fit.to_data(),
        "error": None if cost.error is None else cost.error.to_data(),
        "trusted": None if cost.error is None else cost.error.trusted,
    }
    if rectified is not None:
        facts["rectified"] = {"before": rectified.before, "after": rectified.after}
    return facts


def _tell_signals(taken: Profile) -> None:
    typer.echo(f"{'signal':18} rank correlation with the residual's true change")
    for name, value in sorted(taken.fit.items(), key=lambda item: -item[1]):
        typer.echo(f"{name:18} {value:.3f}")
    if taken.jumps:
        typer.echo(f"the residual jumps before step {', '.join(map(str, taken.jumps))}")
        typer.echo(f"guards.sigma_windows: {[list(window) for window in taken.sigma_windows]}")


def _tell_cost(cost: CostModel) -> None:
    typer.echo(f"{'step':18} compute  latency  with {cost.batch} pictures")
    for name, step in cost.overview().items():
        seconds = "      -" if step.seconds is None else f"{step.seconds:5.3f} s"
        typer.echo(f"{name:18} {step.fraction:7.3f}  {seconds}")
    error = cost.error
    if error is None:
        return
    typer.echo(
        f"cost model on {error.patterns} unseen schedules: latency off by {error.latency_median:.1%} in the "
        f"median, {error.latency_worst:.1%} at worst; compute fraction {error.compute_median:.2%}, "
        f"{error.compute_worst:.2%}"
    )
    typer.echo(f"uncached requests in turn differ by {error.noise:.1%}, which no model can predict")
    if not error.trusted:
        typer.echo("predicted latency is off by more than 20 %: rank by compute fraction or by measurement")


def _tell_latency(latency: Latency | None) -> None:
    if latency is None:
        return
    typer.echo(
        f"uncached: {latency.baseline_s:.2f} s a batch of {latency.batch}, A/A floor {latency.floor:.1%}"
    )
    for note in latency.notes:
        typer.echo(note)
