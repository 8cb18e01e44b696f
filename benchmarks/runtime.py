"""Cost and saving of the runtime itself: real geometry, random weights, paired ratios. One line a policy.

Weights are random, so pictures mean nothing here and nothing is said of quality; what runs, and how long it
takes, does not depend on the weights under a static schedule. `--policy ours-online` decides by a signal: its
actions do depend on them, and are printed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from contextlib import nullcontext

import torch
from geometries import GEOMETRIES, Geometry
from torch import nn

import xslim
from autotune.scoring.environment import environment
from xslim.policy.authors import author_policy
from xslim.policy.policy import Policy

POLICIES = ("full", "authors-slow", "authors-fast", "ours", "ours-online")
# as many full steps as the authors' fast schedule for FLUX, its refreshes made full, order-1 extrapolation
OURS = "FFFF..F....F......F........F........F.......F....F"


def policy_of(name: str, geometry: Geometry) -> Policy | None:
    """Return a policy by name; None when nothing was published for the family."""
    if name == "full":
        return Policy.from_pattern("F" * geometry.steps)
    if name == "ours":
        return Policy.from_pattern(OURS, predictor={"kind": "newton", "order": 1})
    if name == "ours-online":
        return Policy(
            controller={"kind": "dual-threshold", "critical": 0.3, "polish": []},
            indicator={"signals": {"modulated_input": 1.0}},
            predictor={"kind": "newton", "order": 1},
        )
    mode = name.removeprefix("authors-")
    return None if geometry.author is None else author_policy(geometry.author, mode)


class Bench:
    """One model and its requests."""

    def __init__(self, geometry: Geometry, device: torch.device) -> None:
        torch.manual_seed(0)
        self.geometry = geometry
        self.device = device
        with torch.device(device):
            previous = torch.get_default_dtype()
            torch.set_default_dtype(geometry.dtype)
            try:
                self.model: nn.Module = geometry.build().eval()
            finally:
                torch.set_default_dtype(previous)
        self.noise = torch.randn(geometry.latent).to(device, geometry.dtype)

    @torch.no_grad()
    def request(self) -> float:
        """Run the denoising loop; return its seconds."""
        latent, steps = self.noise, self.geometry.steps
        self._wait()
        start = time.perf_counter()
        for step in range(steps):
            arguments = self.geometry.arguments(latent, 1 - step / steps)
            output = self.model(hidden_states=latent, return_dict=False, **arguments)[0]
            latent = latent - output[:, : latent.shape[1]] / steps
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, policy: Policy | None) -> tuple[float, xslim.Session | None]:
        """Time one request, attached or bare."""
        attached = nullcontext() if policy is None else xslim.attach(self.model, policy, self.geometry.steps)
        with attached as session:
            return self.request(), session

    def measure(self, policy: Policy, rounds: int) -> dict[str, object]:
        """Rounds of A B B A against the bare model, after one request of each."""
        self.timed(None)
        self._reset_peak()
        _, session = self.timed(policy)
        peak = self._peak(session)
        ratios, base = [], []
        for _ in range(rounds):
            first = self.timed(None)[0]
            pair = [self.timed(policy)[0] for _ in range(2)]
            last = self.timed(None)[0]
            ratios += [math.log(first / pair[0]), math.log(last / pair[1])]
            base += [first, last]
        speedup = math.exp(statistics.median(ratios))
        fraction = session.trace.compute_fraction
        return {
            "actions": session.trace.actions,
            "compute_fraction": round(fraction, 4),
            "speedup_median": round(speedup, 4),
            "speedup_min_max": [round(math.exp(min(ratios)), 4), round(math.exp(max(ratios)), 4)],
            "realised": round(fraction * speedup, 4),
            "pairs": len(ratios),
            "uncached_s": round(statistics.median(base), 4),
            **peak,
        }

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _peak(self, session: xslim.Session) -> dict[str, int]:
        held = {"peak_held_bytes": session.peak_held_bytes}
        if self.device.type == "cuda":
            held["peak_device_bytes"] = torch.cuda.max_memory_allocated()
        return held


if __name__ == "__main__":
    families = sorted({family for family, _ in GEOMETRIES})
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=families, default="flux")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--policy", choices=POLICIES, action="append", help="may be repeated; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="A B B A rounds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    geometry = GEOMETRIES[args.family, args.size]
    bench = Bench(geometry, torch.device(args.device))
    for name in args.policy or POLICIES:
        policy = policy_of(name, geometry)
        if policy is None:
            continue
        line = {
            "benchmark": "runtime",
            "family": args.family,
            "size": args.size,
            "policy": name,
            **bench.measure(policy, args.rounds),
            "steps": geometry.steps,
            "dtype": str(geometry.dtype).removeprefix("torch."),
            **environment(bench.device),
            "machine": platform.machine(),
            "command": f"python benchmarks/runtime.py {' '.join(sys.argv[1:])}".strip(),
        }
        print(json.dumps(line), flush=True)
