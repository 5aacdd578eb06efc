from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_bits_with_any_number_of_threads(train_options, tmp_path, threads):
    """Before it was seen to, nearly each run with two threads differed."""
    file = tmp_path / "options.json"
    file.write_text(json.dumps(train_options, default=str), encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if name not in ("MKL_CBWR", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("repeat_driver.py")), str(file), str(threads), "4"],
        env={**inherited, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    hashes = done.stdout.split()
    assert len(hashes) == 4 and len(set(hashes)) == 1
