from __future__ import annotations

import os

from lib_lora.base.reproducible import ask_for_reproducible_sums


def test_what_somebody_has_chosen_stays(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    ask_for_reproducible_sums()
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"
    monkeypatch.delenv("MKL_CBWR")
    ask_for_reproducible_sums()
    assert os.environ["MKL_CBWR"] == "AUTO"
