from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("memory is read from /proc", allow_module_level=True)

from watch import watch

STEPS = """
import time
from tqdm import tqdm
held = []
for step in tqdm(range(4), desc="steps", mininterval=0):
    held.append(bytearray(b"x" * 50_000_000)) if step == 1 else held.clear()
    time.sleep(0.15)
"""


def test_steps_and_the_most_memory_are_seen(tmp_path):
    seen = watch([sys.executable, "-c", STEPS], tmp_path, os.environ)
    assert set(seen.step_ends_s) >= {1, 2, 3}
    assert 0.1 < seen.step(warm_up=1) < 1
    assert seen.first_step() > 0.15
    assert seen.step(cpu=True, warm_up=1) < 0.1  # it slept
    assert 48 < seen.peak_anon_mb < seen.peak_rss_mb + 1 < 200


def test_a_failed_command_is_told_with_its_words(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)ended with 3.*no such thing"):
        watch([sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"], Path(tmp_path), os.environ)
