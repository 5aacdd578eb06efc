"""The two environments, whose torch and diffusers are years apart, compute the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {".venv": ".venv-host", ".venv-host": ".venv"}  # as run.py makes them


def other_python():
    """The other environment's interpreter: where a variable says, else beside this one; None where there is none."""
    if os.environ.get("LORA_STUDIO_OTHER_PYTHON"):
        return Path(os.environ["LORA_STUDIO_OTHER_PYTHON"])
    folder = ROOT / FOLDERS.get(Path(sys.prefix).name, "nowhere")
    places = [folder / "bin" / "python", folder / "Scripts" / "python.exe"]
    return next((place for place in places if place.exists()), None)


@pytest.mark.slow
@pytest.mark.skipif(other_python() is None, reason="no other environment (LORA_STUDIO_OTHER_PYTHON names one)")
def test_both_environments_have_the_same_gradients_and_losses(train_options, tmp_path):
    # Matrices that are zero at first have no gradients of the others: two steps' losses show those. At 64 px the
    # tiny UNet's deepest level is one pixel, whose group norm divides rounding errors by nearly nothing.
    more = {"resolution": "128", "max_train_steps": 10, "train_batch_size": 2, "conv_dim": 2, "learning_rate": 1e-3}
    options = {**train_options, **more}
    found = []
    for name, python in (("here", sys.executable), ("there", other_python())):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({**options, "output_name": name}, default=str), encoding="utf-8")
        done = subprocess.run(
            [str(python), str(Path(__file__).with_name("environment_driver.py")), str(file), str(tmp_path / name)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        found.append(load_file(tmp_path / name))
    here, there = found
    assert here.keys() == there.keys() and len(here["losses"]) == 10
    torch.testing.assert_close(here.pop("losses"), there.pop("losses"), rtol=1e-3, atol=0)
    norms = {name: float(torch.linalg.vector_norm(gradient)) for name, gradient in here.items()}
    largest = max(norms.values())
    assert sum(norm > 1e-2 * largest for norm in norms.values()) > len(norms) / 4
    for name, gradient in here.items():
        # One channel per group, as the tiny net's norms have: the time embedding's gradient is rounding alone.
        rounding = 1e-6 * largest
        assert torch.linalg.vector_norm(gradient - there[name]) <= 1e-4 * norms[name] + rounding, name
