"""`autotune certify`: measure a preset again on fresh held-out cases, bound by bound."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import Json, Overrides, say
from autotune.cli.workers import executor_for, threads_each, worker_count
from autotune.search.store import RunFolder
from xslim.errors import ConfigError
from xslim.policy.preset import Preset, save_preset, shipped_presets

if TYPE_CHECKING:
    from autotune.search.certificate import CertificationPlan

MISSED, INTERRUPTED = 1, 75


def certify(
    preset: Annotated[str, typer.Argument(help="a preset file, or a shipped preset's name")],
    experiment: Annotated[
        Path | None, typer.Option(help="how it is measured [default: as the preset itself tells]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="the model's folder, if it lies elsewhere now")] = None,
    out: Annotated[Path | None, typer.Option(help="output folder [default: runs/certify/<name>]")] = None,
    overrides: Overrides = None,
    write: Annotated[bool, typer.Option("--write", help="keep the certificate in the preset file")] = False,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster")] = None,
    as_json: Json = False,
) -> int:
    """Measure a preset on held-out cases that it was not chosen by; 1 when it misses a bound."""
    if write and preset in shipped_presets():
        raise ConfigError(
            f"got {preset!r}, which is shipped with the package; give the path of a file", key="--write"
        )

    from autotune.search.certificate import (
        Certification,
        certified_section,
        default_folder,
        plan_certification,
    )
    from autotune.search.executor import LocalExecutor
    from autotune.search.run import evaluator_spec

    chosen = plan_certification(preset, experiment, model, overrides or ())
    folder = RunFolder(out or default_folder(chosen.preset))
    workers = worker_count(chosen.experiment, ray_address)
    threads = threads_each(workers) if ray_address is None else None
    spec = evaluator_spec(chosen.experiment, folder.path, threads)
    folder.acquire()
    try:
        alone = workers == 1 and ray_address is None
        executor = (
            LocalExecutor() if alone else executor_for(chosen.experiment, workers, ray_address, threads)
        )
        certificate = Certification(chosen, folder, executor, spec, on_phase=say).run()
    except Exception as error:
        if not isinstance(error, ConfigError):
            say(f"the run broke; what was measured is kept in {folder.path}; the same command goes on")
        raise
    finally:
        folder.release()
    if certificate is None:
        say("interrupted; the same command goes on")
        return INTERRUPTED
    if write:
        _write(chosen.preset, preset, certified_section(certificate))
    return _present(chosen, certificate, folder.path, as_json)


def _write(preset: Preset, path: str, section: Mapping[str, Any]) -> None:
    quality = preset.quality.model_copy(update={"certified": dict(section)})
    save_preset(preset.model_copy(update={"quality": quality}), path)
    say(f"{path}: quality.certified " + ("written" if section else "is empty now: a bound is missed"))


def _present(chosen: CertificationPlan, certificate: Mapping[str, Any], folder: Path, as_json: bool) -> int:
    if as_json:
        json.dump(certificate, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print_certificate(certificate, folder)
    for warning in certificate["warnings"]:
        say(f"note: {warning}")
    if not chosen.preset.quality.bounds:
        say("note: the preset states no bounds; only its speed was checked")
    missed = [check for check in certificate["bounds"] if not check["held"]]
    for check in missed:
        say(f"missed: {check['name']} = {check['value']:.4g}, wanted {_wanted(check)}")
    return MISSED if missed else 0


def print_certificate(certificate: Mapping[str, Any], folder: Path) -> None:
    """Print what was wanted, what was measured, and whether it holds."""
    holdout = certificate["holdout"]
    cases = f"{holdout['cases']} fresh cases (seed {holdout['cases_seed']})"
    typer.echo(f"{certificate['preset']} on {cases}, {certificate['environment'].get('device', 'unknown')}")
    typer.echo(f"  {'bound':18} {'wanted':>10} {'measured (95 %)':>28} {'before':>9}")
    for check in certificate["bounds"]:
        low, high = check["ci95"]
        before = "" if check["evidence"] is None else f"{check['evidence']:.4g}"
        verdict = "held" if check["held"] else "MISSED"
        if check["held"] and not check["sure"]:
            verdict += ", but the interval reaches beyond it"
        measured = f"{check['value']:.4g} ({low:.4g} - {high:.4g})"
        typer.echo(f"  {check['name']:18} {_wanted(check):>10} {measured:>28} {before:>9}  {verdict}")
    bounded = {check["name"] for check in certificate["bounds"]}
    for name in ("compute_fraction", "psnr", "ssim", "lpips", "fid"):
        if name in holdout and name not in bounded:
            low, high = holdout[name]["ci95"]
            measured = f"{holdout[name]['value']:.4g} ({low:.4g} - {high:.4g})"
            typer.echo(f"  {certificate['nets'].get(name, name):18} {'':>10} {measured:>28}")
    for name in ("psnr", "lpips"):
        worst = holdout.get(name, {}).get("worst")
        if worst is not None:
            case = f"prompt {worst['prompt']!r}, seed {worst['seed']}"
            typer.echo(f"  worst {name:12} {worst['value']:.4g}: {case}")
    typer.echo(f"certificate: {folder / 'certificate.json'}")


def _wanted(check: Mapping[str, Any]) -> str:
    wanted = check["wanted"]
    return f">= {wanted['min']:g}" if "min" in wanted else f"<= {wanted['max']:g}"
