"""The page docs/families.md, written from the adapters: `python -m xslim.runtime.adapters.table`."""

from __future__ import annotations

import sys

from xslim.runtime.adapters import ADAPTERS, BlockAdapter

HEADER = """# Families

Written from the adapters by `python -m xslim.runtime.adapters.table`; do not edit by hand.

*Step*, *block* and *token* say which kinds of reuse work. Where the token column gives a reason, a policy
that asks for token refreshes is refused when it is attached. The lookup is by exact class name: a class that
derives from one of these has an adapter of its own, or none.

| family | transformer class | step | block | token | text in attention | remark |
|---|---|---|---|---|---|---|
"""

FOOTER = """
To add a family, see [extending.md](extending.md#a-model-family).
"""

_TEXT = {"text-first": "before the image", "text-last": "after the image", "cross": "cross attention"}


def _text(adapter: BlockAdapter) -> str:
    """Where attention finds the text."""
    kinds = {kind for stack in adapter.stacks for kind in stack.attention}
    found = [words for kind, words in _TEXT.items() if kind in kinds]
    if found:
        return ", ".join(found)
    return "none" if kinds else "not told apart"


def page() -> str:
    """Return the page as Markdown."""
    rows = []
    for adapter in sorted(ADAPTERS.values(), key=lambda adapter: adapter.family):
        reason = adapter.no_tokens({})
        tokens = "yes" if reason is None else f"no: {reason}"
        cells = (
            adapter.family, f"`{adapter.transformer}`", "yes", "yes", tokens, _text(adapter), adapter.remark,
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return HEADER + "\n".join(rows) + "\n" + FOOTER


if __name__ == "__main__":
    sys.stdout.write(page())
