"""``bench/dataset_page.py`` on a few pictures."""

from __future__ import annotations

import re
import shutil

import dataset_page
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_opening_filters_and_frames_are_measured(tmp_path, capsys):
    pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    if not any(map(shutil.which, dataset_page.BROWSERS)):
        pytest.skip("there is no Chromium to drive")
    dataset_page.draw_dataset(tmp_path / "dataset", 60)
    with dataset_page.served(tmp_path) as address, dataset_page.chromium_page() as page:
        dataset_page.measure(page, address, tmp_path / "dataset", scroll_ms=200)
    words = capsys.readouterr().out
    assert int(re.search(r"pictures in the document\s+(\d+)", words)[1]) > 0
    assert len(re.findall(r"filter .* ms", words)) == len(dataset_page.FILTERS)
    assert len(re.findall(r"scrolling .* frames/s", words)) == len(dataset_page.SPEEDS_PX)
