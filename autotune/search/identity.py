"""What makes two policies the same candidate."""

from __future__ import annotations

import json
from hashlib import sha256

from xslim.policy.policy import Pattern, Policy


def effective_key(policy: Policy) -> str:
    """Hash what a policy can do: parts that its actions never reach are left out."""
    data = policy.to_data()
    if isinstance(policy.controller, Pattern):
        data.pop("indicator", None)
        for letter, part in (("B", "block"), ("T", "token")):
            if letter not in policy.controller.steps:
                data.pop(part, None)
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
