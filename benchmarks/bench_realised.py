"""Realised against ideal: compute_fraction times speedup of a step-only pattern at 3x; target 0.9."""

from __future__ import annotations

from common import arguments, load, ratio, report

import xslim
from xslim.policy.policy import Policy

PATTERN = ("F.." * 17)[:50]  # 17 of 50 steps

if __name__ == "__main__":
    args = arguments(__doc__)
    runner, cases = load(args.model, args.batch)
    for predictor in ("hold", "newton"):
        policy = Policy.from_pattern(PATTERN, predictor=predictor)
        with xslim.attach(runner.pipe, policy, num_steps=len(PATTERN)) as session:
            runner.draw(cases)
        fraction = session.trace.compute_fraction
        latency = ratio(runner, cases, policy, args.rounds)
        report(
            "realised",
            runner,
            latency,
            predictor=predictor,
            compute_fraction=round(fraction, 4),
            realised=round(fraction * latency.speedup, 4),
            target="realised >= 0.9",
            held_bytes=session.peak_held_bytes,
        )
