"""Random valid values of the policy layer."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from xslim import Policy, Preset
from xslim.policy.policy import SIGNALS, TABLE_SIGNALS

fractions = st.floats(0, 1)
amounts = st.floats(0, 1e6)
budgets = st.floats(0.001, 1)
names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=20)


def subset(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Any of the fields, each present or left out."""
    return st.fixed_dictionaries({}, optional=fields)


def closed(policy: dict[str, object]) -> dict[str, object]:
    """Under parity a pattern ends with a full step."""
    controller = policy["controller"]
    if policy.get("parity") and controller["kind"] == "pattern":
        return {**policy, "controller": {**controller, "steps": controller["steps"] + "F"}}
    return policy


dual_threshold = st.tuples(
    st.fixed_dictionaries({"kind": st.just("dual-threshold"), "critical": amounts}),
    subset(
        warning_fraction=fractions,
        warmup=st.integers(1, 9),
        cooldown=st.integers(0, 4),
        max_consecutive_skips=st.none() | st.integers(1, 9),
        max_consecutive_reuses=st.none() | st.integers(1, 9),
        polish=st.lists(st.sampled_from(["block", "token"]), max_size=3),
        relief=st.fixed_dictionaries({"block": fractions, "token": fractions}),
    ),
).map(lambda parts: {**parts[0], **parts[1]})
leading = st.text(".", max_size=3)  # no refresh before the first full step
patterns = st.tuples(leading, st.text("FBT.", max_size=50)).map("F".join) | st.text(".", min_size=1)
pattern = st.fixed_dictionaries({"kind": st.just("pattern"), "steps": patterns})
interval = st.fixed_dictionaries(
    {
        "kind": st.just("interval"),
        "every": st.integers(1, 9),
        "warmup": st.integers(1, 9),
        "cooldown": st.integers(0, 4),
    },
    optional={"between": st.lists(st.sampled_from(["skip", "token", "block"]), min_size=1, max_size=4)},
)
tables = st.integers(1, 8).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(0, 1), min_size=width, max_size=width), min_size=1, max_size=12
    )
)
table = st.fixed_dictionaries({"kind": st.just("table"), "blocks": tables})

increasing = st.lists(st.integers(0, 1000), min_size=2, max_size=8, unique=True).map(
    lambda xs: [x / 64 for x in sorted(xs)]
)
calibrations = increasing.flatmap(
    lambda x: st.lists(amounts, min_size=len(x), max_size=len(x)).map(lambda y: {"x": x, "y": y})
)
coefficients = st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6)
maps = calibrations | coefficients.map(lambda c: {"polynomial": c})
indicators = st.dictionaries(st.sampled_from(SIGNALS), st.floats(0.01, 10), min_size=1).flatmap(
    lambda signals: st.fixed_dictionaries(
        {
            "signals": st.just(signals),
            "calibration": st.fixed_dictionaries(
                {name: calibrations for name in signals if name in TABLE_SIGNALS},
                optional={name: maps for name in signals if name not in TABLE_SIGNALS},
            ),
        },
        optional={
            "accumulate": st.sampled_from(["sum", "latest"]),
            "compare": st.sampled_from(["previous", "computed"]),
        },
    )
)
thresholds = amounts | st.fixed_dictionaries({"double": amounts, "single": amounts})
NEEDED = {"gamma": {"gamma": {"x": [0.0, 1.0], "y": [1.0, 1.0]}}}  # keys without which a kind is not valid


def predictor_keys(kind: str, order: int = 1) -> dict[str, object]:
    """A valid predictor of a kind that reproduces constants."""
    return {"kind": kind, "order": order, **NEEDED.get(kind, {})}


predictors = subset(
    kind=st.sampled_from(["hold", "newton", "taylor", "pade", "foca"]),
    order=st.integers(1, 4),
    pade=subset(decay=st.floats(0.1, 100), alpha=st.floats(-1, 2), beta=st.floats(-1, 1)),
) | st.lists(st.floats(0.1, 9), min_size=2, max_size=2).map(
    lambda sizes: {"kind": "gamma", "gamma": {"x": [0.0, 1.0], "y": sizes}}
)
policy_data = st.tuples(
    st.fixed_dictionaries({"controller": dual_threshold | pattern | interval | table}),
    subset(
        indicator=indicators,
        block=st.builds(
            dict, budget=budgets, start_block=st.integers(-1, 9)
        ) | st.builds(dict, threshold=thresholds) | st.builds(
            dict, first=st.integers(1, 9), last=st.integers(0, 9)
        ),
        token=subset(
            budget=budgets,
            age_weight=amounts,
            select=st.sampled_from(["change", "random"]),
            kv_writeback=st.booleans(),
        ),
        predictor=predictors,
        guards=subset(sigma_windows=st.lists(st.tuples(amounts, amounts).map(list), max_size=3)),
        batch=st.just("per-sample"),
        parity=st.sampled_from(["authors", None]),
    ),
).map(lambda parts: closed({**parts[0], **parts[1]}))  # fmt: skip
policies = policy_data.map(Policy.parse)


def _curve(parts: tuple[float, float, list[float]]) -> list[float]:
    """A curve from its logarithm's start, first slope and bends."""
    level, slope, bends = parts
    logs = [level]
    for bend in bends:
        slope = min(0.5, max(-0.5, slope + bend))
        logs.append(logs[-1] + slope)
    return [math.exp(value) for value in logs]


# the logarithm bends little from step to step, and changes by at most a half
smooth_curves = st.tuples(
    st.floats(-5, 5), st.floats(-0.5, 0.5), st.lists(st.floats(-0.1, 0.1), min_size=19, max_size=60)
).map(_curve)

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e9, 1e9) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
presets = st.builds(
    Preset,
    name=names,
    model=st.tuples(
        st.fixed_dictionaries({"family": names, "transformer": names}),
        st.lists(amounts, min_size=1, max_size=5).map(
            lambda sigmas: {"num_steps": len(sigmas), "sigmas": sigmas}
        )
        | st.integers(1, 100).map(lambda steps: {"num_steps": steps}),
        subset(
            config_sha256=st.none() | names,
            scheduler=names,
            height=st.integers(1, 4096),
            guidance_scale=st.floats(-10, 10),
            adapters=st.lists(names, max_size=2),
        ),
    ).map(lambda parts: {**parts[0], **parts[1], **parts[2]}),
    policy=policy_data,
    quality=subset(
        bounds=st.dictionaries(names, amounts, max_size=3), holdout=st.dictionaries(names, plain, max_size=3)
    ),
    provenance=st.dictionaries(names, plain, max_size=3),
)
