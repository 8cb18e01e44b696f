"""Shipped presets beside what they have to beat: the same scheduler with fewer steps. One line each."""

from __future__ import annotations

import numpy as np
from common import ROOT, arguments, load, report

import xslim
from autotune.scoring.case import make_cases
from autotune.scoring.latency import paired
from autotune.scoring.nets.loaded import load_nets
from autotune.scoring.nets.spec import MetricsSpec
from autotune.scoring.sampling import Sampling
from autotune.scoring.scores import paired_values
from xslim.policy.policy import Policy
from xslim.policy.preset import shipped_presets

STEPS = (25, 17, 12, 10, 7)
CASES = 64
CASES_SEED = 1  # not the seed of the search that made the presets

if __name__ == "__main__":
    args = arguments(__doc__)
    runner, _ = load(args.model, args.batch)
    _, cases = make_cases(range(10), 0, CASES, seed=CASES_SEED)
    batches = list(runner.batches(cases))
    nets = load_nets(MetricsSpec.digits(str(ROOT / "experiments/models/digits-classifier")))
    references = [runner.draw(batch) for batch in batches]

    def measure(name: str, policy: Policy | None, num_steps: int) -> None:
        """Print quality on all cases and paired latency on the first batch."""
        rows: dict[str, list[np.ndarray]] = {}
        sampling = Sampling(num_steps=num_steps)
        for batch, reference in zip(batches, references, strict=True):
            if policy is None:
                with runner.sampled(sampling):
                    drawn = runner.draw(batch)
            else:
                with xslim.attach(runner.pipe, policy, num_steps=num_steps):
                    drawn = runner.draw(batch)
            for metric, values in paired_values(drawn, reference, nets)[0].items():
                rows.setdefault(metric, []).append(values)
        joined = {metric: np.concatenate(parts) for metric, parts in rows.items()}
        latency = paired(runner, batches[0], policy, args.rounds, 0.0, sampling)
        report(
            "fewer_steps",
            runner,
            latency,
            method=name,
            cases=len(cases),
            psnr_mean=round(float(joined["psnr"].mean()), 2),
            psnr_p5=round(float(np.percentile(joined["psnr"], 5)), 2),
            lpips_digits_mean=round(float(joined["lpips"].mean()), 5),
            lpips_digits_p95=round(float(np.percentile(joined["lpips"], 95)), 5),
        )

    for preset_name in shipped_presets():
        preset = xslim.load_preset(preset_name)
        measure(preset_name, preset.policy, preset.model.num_steps)
    for count in STEPS:
        measure(f"DDIM, {count} steps", None, count)
