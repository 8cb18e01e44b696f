"""Cost of being attached: every step full, against the unhooked model. Target: at most 1.02x."""

from __future__ import annotations

from common import arguments, load, ratio, report

from xslim.policy.policy import Policy

STEPS = 50

if __name__ == "__main__":
    args = arguments(__doc__)
    runner, cases = load(args.model, args.batch)
    latency = ratio(runner, cases, Policy.from_pattern("F" * STEPS), args.rounds)
    report("all_full", runner, latency, slowdown=round(1 / latency.speedup, 4), target="slowdown <= 1.02")
