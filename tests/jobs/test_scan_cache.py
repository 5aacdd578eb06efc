from __future__ import annotations

import os
import shutil

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.dataset import records
from lib_lora.jobs import scan_cache


@pytest.fixture
def scans(monkeypatch) -> list[int]:
    """One entry for each scan that was made."""
    made = []
    monkeypatch.setattr(scan_cache, "scan", lambda *args, **options: made.append(1) or records.scan(*args, **options))
    return made


def test_a_scan_is_made_once_and_again_after_each_change(pictures, scans):
    cached = scan_cache.ScanCache()
    assert cached(pictures) is cached(pictures) and len(scans) == 1
    folder = pictures / "2_zorb"
    (folder / "1.txt").write_text("zorb, other words", encoding="utf-8")
    assert any("other words" in record.caption for record in cached(pictures).records)
    os.replace(folder / "4.png", folder / "5.png")
    assert any(record.path.name == "5.png" for record in cached(pictures).records)
    shutil.copy(folder / "1.png", folder / "6.png")
    assert len(cached(pictures).records) == 6
    shutil.rmtree(folder)
    with pytest.raises(StudioError):
        cached(pictures)
    assert len(scans) == 5


def test_other_options_are_another_scan(pictures, scans):
    cached = scan_cache.ScanCache()
    plain = cached(pictures, regularisation=False)
    assert cached(pictures, regularisation=True) != plain
    with pytest.raises(StudioError, match="no pictures"):
        cached(pictures, regularisation=False, exclude=[pictures / "2_zorb"])
    assert len(scans) == 3


def test_few_scans_are_kept(pictures, tmp_path, scans):
    cached = scan_cache.ScanCache()
    others = [shutil.copytree(pictures, tmp_path / f"copy{index}") for index in range(4)]
    for folder in (pictures, *others, others[-1]):
        cached(folder)
    assert len(scans) == 5
    cached(pictures)
    assert len(scans) == 6


@pytest.mark.skipif(os.name == "nt", reason="making links needs a privilege on Windows")
def test_folders_that_lead_into_one_another_come_to_an_end(pictures, scans):
    (pictures / "2_zorb" / "again").symlink_to(pictures)
    cached = scan_cache.ScanCache()
    assert len(cached(pictures).records) == 5 and cached(pictures) and len(scans) == 1
