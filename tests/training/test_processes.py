"""Two processes on the CPU against one with the same global batch."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import read_header
from lib_lora.training.processes import ALONE, join_processes

ROOT = Path(__file__).resolve().parents[2]

# name -> options of the two processes; the samples are 8 and 2 in two buckets
SCENARIOS = {
    "odd batches": {"train_batch_size": 3},
    "an empty share": {"train_batch_size": 2, "max_train_steps": 4},
    "accumulation": {"train_batch_size": 1, "gradient_accumulation_steps": 2},
    "clip skip": {"clip_skip": 2},
    "dropout": {"train_batch_size": 2, "clip_skip": 2},
    "SDXL": {"train_batch_size": 2, "max_train_steps": 2},
    "SDXL dropout": {"max_train_steps": 1},
    "stop": {"max_train_steps": 5},
    "failure": {},
}
COMPARED = [name for name in SCENARIOS if name not in ("stop", "failure")]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(command):
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    return [
        subprocess.Popen(
            [str(part) for part in command],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def scenarios(tiny_checkpoints, tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("shared") / "pictures" / "2_zorb"
    folder.mkdir(parents=True)
    for index in range(5):
        size = (192, 128) if index == 4 else (128, 128)
        Image.new("RGB", size, (50 * index, 80, 200)).save(folder / f"{index}.png")
    options = {
        "train_data_dir": folder.parent,
        "output_dir": folder.parent / "out",
        "output_name": "zorb",
        "resolution": "64",
        "min_bucket_reso": 64,
        "max_train_steps": 3,
        "device": "cpu",
    }
    return {
        name: {
            **options,
            "pretrained_model_name_or_path": tiny_checkpoints["SDXL" if "SDXL" in name else "SD1"],
            **more,
        }
        for name, more in SCENARIOS.items()
    }


@pytest.fixture(scope="module")
def together(scenarios, tmp_path_factory):
    """What each of two processes says: its results by scenario, and where its weights are."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "scenarios.json").write_text(json.dumps(scenarios, default=str), encoding="utf-8")
    driver = Path(__file__).with_name("process_driver.py")
    processes = start_two([sys.executable, driver, folder / "scenarios.json", folder])
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)], folder


@pytest.fixture(scope="module")
def alone(scenarios):
    sys.path.insert(0, str(Path(__file__).parent))
    from process_driver import scenario

    return lambda name: scenario(
        name,
        {
            **scenarios[name],
            "gradient_accumulation_steps": 2 * scenarios[name].get("gradient_accumulation_steps", 1),
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARED)
def test_two_processes_give_the_weights_of_one_with_the_same_global_batch(together, alone, name):
    results, folder = together
    losses, weights = alone(name)
    for rank in range(2):
        assert results[rank][name] == pytest.approx(losses, rel=1e-12)
        own = load_file(folder / f"{name}-{rank}.safetensors")
        for key, expected in weights.items():
            scale = float(expected.abs().max())
            assert torch.allclose(own[key], expected, rtol=1e-9, atol=1e-9 * scale), key


@pytest.mark.slow
def test_both_processes_hold_the_same_bits(together):
    _, folder = together
    for name in COMPARED:
        first, second = (load_file(folder / f"{name}-{rank}.safetensors") for rank in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_processes_know_their_places_and_a_stop_or_an_error_at_one_ends_both(together):
    (first, second), _ = together
    assert (first["process"], second["process"]) == ([0, 2, True], [1, 2, False])
    assert len(first["stop"]) == len(second["stop"]) == 2
    assert second["failure"] == "its own error" and "process 1 has ended with an error" in first["failure"]


@pytest.mark.slow
def test_the_command_line_trains_with_two_processes_as_with_one(train_options):
    tables, held_out = {}, {"validation_split": 0.4, "validate_every_n_steps": 3, "nan_guard": "rollback"}
    for name, more in {"two": ["--num_processes", 2], "one": ["--gradient_accumulation_steps", 2]}.items():
        options = {**train_options, "output_name": name, "train_batch_size": 2, "save_state": None, **held_out}
        flags = [part for key, value in options.items() for part in (f"--{key}", *([] if value is None else [value]))]
        done = subprocess.run(
            [str(part) for part in [sys.executable, "-m", "lib_lora", "train", *flags, *more]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("done after 3 steps") == 1
        assert "2 processes" in done.stdout or name == "one"
        with open(train_options["output_dir"] / f"{name}-log" / "loss.csv", newline="") as file:
            tables[name] = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(tables["one"]) == 3 and tables["two"] == pytest.approx(tables["one"], rel=1e-4)
    states = [train_options["output_dir"] / f"{name}-state" / "step00000003" for name in ("one", "two")]
    one, two = (load_file(state / "weights.safetensors") for state in states)
    for key, expected in one.items():
        torch.testing.assert_close(two[key], expected, rtol=1e-3, atol=1e-4)
    one, two = (read_header(train_options["output_dir"] / f"{name}-best.safetensors") for name in ("one", "two"))
    assert float(two.metadata["ss_validation_loss"]) == pytest.approx(
        float(one.metadata["ss_validation_loss"]), rel=1e-3
    )


def test_one_process_needs_no_accelerate():
    code = (
        "import sys; from lib_lora.training.processes import join_processes; join_processes('auto');"
        "sys.exit('accelerate was imported' if 'accelerate.state' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert join_processes("auto") is ALONE


def test_several_processes_cannot_share_one_card(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StudioError, match="cuda:1"):
        join_processes("cuda:1")
