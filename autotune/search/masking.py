"""Keeps secrets out of what is shown: passwords of URIs, values of secret keys, tokens of the environment."""

from __future__ import annotations

import os
import re

MASK = "***"
SECRET = re.compile(r"(?i)(^|[._-])(\w*token|\w*password|passwd|secret\w*|\w*api_?key|credentials?)$")
SHORTEST = 8  # characters; a shorter value of a variable may stand in any text


def secret_key(key: str) -> bool:
    """Whether a key, such as `arguments.hf_token`, names a secret."""
    return SECRET.search(key) is not None


def without_passwords(text: str) -> str:
    """Return a text without the passwords of its URIs."""
    return re.sub(r"://[^/@\s]*@", f"://{MASK}@", text)


def masked(key: str, text: str) -> str:
    """Return a value as it may be shown under its key."""
    if secret_key(key):
        return MASK
    for name, value in os.environ.items():
        if secret_key(name) and len(value) >= SHORTEST:
            text = text.replace(value, MASK)
    return without_passwords(text)
