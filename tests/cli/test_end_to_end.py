"""A search with the trained model through the command line, on a local Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

import xslim
from tests.cli.support import ROOT

MODEL = "experiments/models/dit-digits"
SETTINGS = {
    "model.num_steps": 6,
    "search.trials": 3,
    "search.certify": 1,
    "search.certify_rounds": 1,
    "cases.search": 2,
    "cases.holdout": 2,
    "cases.batch": 2,
    "cases.sensitivity": 1,
    "objectives": "[compute_fraction, lpips]",
    "metrics.reference_stats": "null",
    "bounds": "{}",
    "tiers": "{}",
    "executor.workers": 1,
    "tracking.kind": "none",
}

# one CPU, one thread: threads that wait for each other on a busy machine take minutes
CODE = """
import os
from autotune.cli.main import main
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
main()
"""


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_search_ends_in_presets_that_attach(tmp_path: Path) -> None:
    out = tmp_path / "out"
    overrides = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-c", CODE, "search", "experiments/dit-digits.yaml"]
    run = subprocess.run(
        [*command, "--out", str(out), "--json", *overrides],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    # on a busy machine a preset may turn out no faster than no preset, and is dropped
    assert run.returncode in (0, 1), run.stderr
    assert "Traceback" not in run.stderr
    summary = json.loads(run.stdout)
    assert summary["trials"]["complete"] == 3
    assert run.returncode == (0 if summary["front"] else 1)
    assert len(summary["front"]) + len(summary["dropped"]) >= 1
    pipe = DiffusionPipeline.from_pretrained(ROOT / MODEL)
    pipe.set_progress_bar_config(disable=True)
    for member in summary["front"]:
        preset = xslim.load_preset(out / member["preset"])
        with xslim.attach(pipe, preset, strict=True) as session:
            pipe(
                class_labels=[3, 7],
                num_inference_steps=6,
                guidance_scale=1.5,
                generator=[torch.Generator().manual_seed(i) for i in range(2)],
                output_type="pt",
            )
        assert session.trace.compute_fraction < 1
        assert len(session.trace.actions) == 6
        if preset.policy.controller.kind == "pattern":
            assert session.trace.actions == member["actions"]
            assert session.trace.compute_fraction == pytest.approx(member["compute_fraction"], rel=1e-4)
