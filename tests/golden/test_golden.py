"""Golden files: decisions and texts that must not change unnoticed."""

from __future__ import annotations

import math

import xslim
from xslim import Policy, Preset
from xslim.policy.controller import FRESH, decide
from xslim.policy.decision import StepInfo
from xslim.policy.document import dump_yaml

POLICY = Policy(
    controller={
        "kind": "dual-threshold",
        "critical": 0.5,
        "warning_fraction": 0.6,
        "warmup": 2,
        "cooldown": 1,
        "max_consecutive_skips": 3,
        "polish": ["block", "token"],
        "relief": {"block": 0.5, "token": 0.75},
    },
    indicator={
        "signals": {"modulated_input": 0.75, "latent_velocity": 0.25},
        "calibration": {"modulated_input": {"x": [0.0, 0.125, 0.5], "y": [0.0, 0.25, 0.5]}},
    },
    block={"threshold": {"double": 1.5, "single": 10.0}},
    token={"budget": 0.5, "age_weight": 0.25},
    predictor={"kind": "newton", "order": 1},
    guards={"sigma_windows": [[0.8, 0.9]]},
)
CHANGES = [0.5, 0.5, *[0.0625] * 4, 0.125, 0.03125, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0625, 0.0, math.nan]
CHANGES += [0.125, 0.125, 0.125, 0.25, 0.0]


def test_decisions_from_scripted_readings(golden) -> None:
    state, lines = FRESH, []
    for step, change in enumerate(CHANGES):
        sigma = 2.5 - step * 0.125
        reading = {} if step == 0 else {"modulated_input": change, "latent_velocity": change / 2}
        decision, state = decide(POLICY, state, StepInfo(step, len(CHANGES), sigma), reading)
        lines.append(
            f"{step:2d}  sigma {sigma:6.3f}  change {change:7.5f}  {decision.action}  "
            f"err {decision.err:.6f}  {decision.reason}{'  counted' if decision.nonfinite else ''}\n"
        )
    golden("dual_threshold.txt", "".join(lines))


def preset() -> Preset:
    return Preset(
        name="golden/preset",
        model={
            "family": "dit",
            "transformer": "DiTTransformer2DModel",
            "config_sha256": "ab" * 32,
            "scheduler": "DDIMScheduler",
            "num_steps": 3,
            "sigmas": [14.5, 1.25, 0.0],
            "height": 16,
            "width": 16,
            "guidance_scale": 1.5,
            "dtype": "float32",
        },
        policy=POLICY.model_copy(
            update={"controller": POLICY.controller.model_copy(update={"max_consecutive_skips": None})}
        ),
        quality={"bounds": {"lpips_p95": 0.1}, "holdout": {"lpips": {"value": 0.04, "ci95": [0.03, 0.05]}}},
        provenance={"study": "golden", "trial": 37, "versions": {"torch": "2.7"}, "note": "é: yes, no, on"},
    )


def test_preset_as_yaml(golden, tmp_path) -> None:
    xslim.save_preset(preset(), tmp_path / "preset.yaml")
    golden("preset_v1.yaml", (tmp_path / "preset.yaml").read_text(encoding="utf-8"))
    assert xslim.load_preset(tmp_path / "preset.yaml") == preset()


def test_every_kind_of_controller_as_yaml(golden) -> None:
    policies = {
        "pattern": Policy.from_pattern("FFF..B..T..F"),
        "interval": Policy(controller={"kind": "interval", "every": 4, "warmup": 3, "cooldown": 1}),
        "table": Policy(controller={"kind": "table", "blocks": [[1, 1], [1, 0], [0, 0]]}),
    }
    golden("policies.yaml", dump_yaml({name: policy.to_data() for name, policy in policies.items()}))
