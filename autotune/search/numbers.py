"""Numbers as files hold them: rounded for people, and never NaN."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


def rounded(value: Any, key: str = "") -> Any:
    """Round floats to six significant digits, in any nesting; one that is not finite becomes None.

    JSON has no NaN, and whoever reads one as a number is misled; so each is named in a warning instead.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            log.warning("%s is %s: left out; see what was drawn there", key, value)
            return None
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {name: rounded(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, f"{key}.{i}") for i, item in enumerate(value)]
    return value


def to_json(data: Mapping[str, Any]) -> str:
    """Return indented JSON.

    Raises:
        ValueError: a number is not finite; `rounded` comes before.
    """
    return json.dumps(data, indent=2, allow_nan=False) + "\n"
