"""The page of families says what the adapters say."""

from __future__ import annotations

from pathlib import Path

import pytest

from xslim.runtime.adapters.table import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"


def test_the_page_is_written_from_the_adapters(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        PAGE.write_text(page(), encoding="utf-8")
    stale = "docs/families.md is stale; run python -m xslim.runtime.adapters.table > docs/families.md"
    assert PAGE.read_text(encoding="utf-8") == page(), stale
