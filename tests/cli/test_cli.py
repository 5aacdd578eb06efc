"""The command line as a user meets it: a process of its own, its output and its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "lib_lora"]


def lora(*arguments, **kwargs):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300, **kwargs
    )


def flags(options):
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


@pytest.mark.slow
def test_train_then_sample_from_the_command_line(train_options, tmp_path):
    done = lora("train", *flags(train_options))
    assert done.returncode == 0, done.stderr
    assert "saved" in done.stdout and str(train_options["output_dir"] / "zorb.safetensors") in done.stdout
    assert "step/s" in done.stderr or "s/step" in done.stderr
    sampled = lora(
        "sample",
        "--pretrained_model_name_or_path",
        train_options["pretrained_model_name_or_path"],
        "--prompt",
        "zorb <lora:zorb:0.5>",
        "--lora_dir",
        train_options["output_dir"],
        "--output_dir",
        tmp_path / "out",
        "--width",
        64,
        "--height",
        64,
        "--steps",
        2,
        "--images",
        2,
    )
    assert sampled.returncode == 0, sampled.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000-1.png", "00001-2.png"]
    assert Image.open(tmp_path / "out" / names[0]).size == (64, 64)


@pytest.mark.slow
def test_flags_override_the_config_file(train_options, tmp_path):
    config = tmp_path / "run.toml"
    values = {**train_options, "network_dim": 4}
    lines = [
        f"{name} = {value if isinstance(value, (int, float)) else repr(str(value))}" for name, value in values.items()
    ]
    config.write_text("[all]\n" + "\n".join(lines), encoding="utf-8")
    done = lora("train", "--config_file", config, "--network_dim", 3)
    assert done.returncode == 0, done.stderr
    from safetensors import safe_open

    with safe_open(train_options["output_dir"] / "zorb.safetensors", framework="pt") as file:
        assert file.metadata()["ss_network_dim"] == "3"


def test_plan_says_what_would_be_done_and_writes_nothing(train_options):
    done = lora("plan", *flags(train_options))
    assert done.returncode == 0, done.stderr
    assert "5 pictures" in done.stdout and "zorb" in done.stdout
    assert not train_options["output_dir"].exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process on Windows")
def test_ctrl_c_keeps_what_the_run_has(train_options):
    process = subprocess.Popen(
        [*COMMAND, "train", *flags({**train_options, "max_train_steps": 5000})],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    log = train_options["output_dir"] / "zorb-log" / "loss.csv"
    until = time.time() + 120
    while time.time() < until and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "stopped after" in output
    (state,) = (train_options["output_dir"] / "zorb-state").iterdir()
    assert f"--resume {state}" in output
    assert len(list(train_options["output_dir"].glob("zorb-step*.safetensors"))) == 1
    assert not (train_options["output_dir"] / "zorb.safetensors").exists()


def broken(options, tmp_path, kind):
    folder = options["train_data_dir"] / "2_zorb"
    if kind == "no pictures":
        for path in folder.glob("*.png"):
            path.unlink()
    elif kind == "unreadable picture":
        (folder / "1.png").write_bytes(b"not a picture")
    elif kind == "empty caption":
        (folder / "1.txt").write_bytes(b"")
    elif kind == "unwritable":
        (tmp_path / "file").write_text("")
        options["output_dir"] = tmp_path / "file" / "Lora"
    elif kind == "rank 0":
        options["network_dim"] = 0
    elif kind == "unknown value":
        options["save_precision"] = "fp12"
    elif kind == "missing folder":
        options["train_data_dir"] = tmp_path / "nowhere"
    elif kind == "unknown option":
        config = tmp_path / "run.toml"
        config.write_text("netwrok_dim = 4\n")
        options["config_file"] = config
    return options


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing folder", ["train_data_dir", "nowhere"]),
        ("no pictures", ["train_data_dir", "no pictures"]),
        ("unreadable picture", ["1.png"]),
        ("empty caption", ["1.txt"]),
        ("rank 0", ["network_dim", "at least 1"]),
        ("unknown value", ["save_precision", "fp16, bf16, float"]),
        ("unknown option", ["netwrok_dim", "network_dim"]),
        ("unwritable", ["output_dir"]),
    ],
)
def test_bad_input_is_one_clear_error_and_no_traceback(train_options, tmp_path, kind, words):
    done = lora("train", *flags(broken(dict(train_options), tmp_path, kind)))
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_an_unknown_flag_is_refused():
    done = lora("train", "--netwrok_dim", "4")
    assert done.returncode == 2 and "--netwrok_dim" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_is_named_and_leaves_no_half_file(train_options, tmp_path):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from lib_lora.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *flags(train_options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "zorb.safetensors" in done.stderr
    assert [path.name for path in train_options["output_dir"].glob("*.safetensors*")] == []


def without_torch(*arguments):
    """Run a command in a process that must not have imported torch at its end."""
    code = """if True:
        import sys
        from lib_lora.cli.main import main
        try:
            code = main(sys.argv[1:])
        except SystemExit as end:
            code = end.code
        sys.exit("torch was imported" if "torch" in sys.modules else code)
    """
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_help_does_not_wait_for_torch():
    done = without_torch("train", "--help")
    assert done.returncode == 0, done.stderr
    assert "--network_dim" in done.stdout


def test_a_plan_does_not_wait_for_torch(train_options):
    done = without_torch("plan", *flags(train_options))
    assert done.returncode == 0, done.stderr
