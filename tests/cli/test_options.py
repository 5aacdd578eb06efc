from __future__ import annotations

from pathlib import Path

from lib_lora.cli.options import options_page

ROOT = Path(__file__).parents[2]


def test_the_options_page_is_what_the_code_says():
    """``python run.py cli options > docs/options.md`` after an option has changed."""
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == options_page()
