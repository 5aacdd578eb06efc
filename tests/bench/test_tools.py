from __future__ import annotations

import argparse
import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("memory is read from /proc", allow_module_level=True)

import tools
from full_size import SIZES


def test_a_tool_is_measured_with_its_error(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SD_SCRIPTS_DIR", raising=False)
    args = argparse.Namespace(size="tiny-sd15", rank=8, rounds=1)
    work = tools.jobs(tools.write_files(tmp_path, SIZES[args.size], args), args)
    tools.compare("resize", work["resize"], args, tmp_path)
    words = capsys.readouterr().out
    assert "MB own" in words
    assert 0 <= abs(float(words.split()[-4])) < 1e-4  # half precision's rounding above the optimum
