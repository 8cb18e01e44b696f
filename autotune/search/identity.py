"""What makes two points the same candidate."""

from __future__ import annotations

import json
from hashlib import sha256

from autotune.scoring.sampling import REFERENCE, Sampling
from xslim.policy.policy import Pattern, Policy


def effective_key(policy: Policy, sampling: Sampling = REFERENCE) -> str:
    """Hash what a policy can do under a sampling: parts that its actions never reach are left out."""
    data = policy.to_data() | sampling.to_data()
    if isinstance(policy.controller, Pattern):
        data.pop("indicator", None)
        for letter, part in (("B", "block"), ("T", "token")):
            if letter not in policy.controller.steps:
                data.pop(part, None)
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
