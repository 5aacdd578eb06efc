"""Jobs on the model that the real WebUI has loaded.

Wants ``SD_WEBUI_DIR`` (a checkout of A1111 v1.10.1) and ``SD_WEBUI_PYTHON`` (its interpreter).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import save_network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.models.loader import load_model

pytestmark = pytest.mark.webui

ROOT = Path(__file__).parents[2]
LORA = "random"
LORA_KEYS = 3  # of each layer: down, up, alpha
GREY_LEVELS = 3  # rounding in another order; a wrong formula gives dozens
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_CBWR": "AUTO"}
ALL = {
    "weights": True,
    "flags": True,
    "modes": True,
    "devices": True,
    "hooks": True,
    "methods": True,
    "picture": True,
    "lora picture": True,
}
SCENES = ["a_job", "after_a_lora", "paused", "switched_and_put_back", "previews", "files"]
SD1_SCENES = [
    *SCENES,
    "stopped",
    "aborted",
    "failed",
    "switched_and_left",
    "unloaded",
    "vae_switched",
    "a_preview_is_interrupted",
    "host_says",
]


class Played:
    """What the scenes gave, in the WebUI with one checkpoint."""

    def __init__(self, checkpoint: Path, folder: Path, run_in_webui: Callable[..., None]) -> None:
        self.checkpoint, self.folder, self.data = checkpoint, folder, folder / "data"
        self._run = run_in_webui

    @property
    def train(self) -> dict:
        return {
            "pretrained_model_name_or_path": str(self.checkpoint),
            "train_data_dir": str(self.folder / "pictures"),
            "output_dir": str(self.data / "Lora"),
            "cache_dir": str(self.folder / "cache"),
            "logging_dir": str(self.folder / "log"),
            "network_dim": 3,
            "network_alpha": 2,
            "conv_dim": 2,
            "network_dropout": 0.1,
            "seed": 1,
            "resolution": "64",
            "min_bucket_reso": 64,
            "max_train_steps": 6,
            "learning_rate": 1e-2,
            "train_batch_size": 2,
            "save_precision": "float",
            "device": "cpu",
        }

    def play(self, scenes: list[str], *arguments: str, **settings: object) -> dict:
        """What the scenes give, with further arguments and settings of the WebUI's."""
        (self.data / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        task = {
            "project": str(ROOT),
            "scenes": scenes,
            "train": self.train,
            "lora": LORA,
            "other": str(self.folder / "other" / "other.safetensors"),
            "vae": str(self.folder / "changed.vae.safetensors"),
            "environment": ONE_THREAD,
            "arguments": ["--ckpt-dir", str(self.folder / "other"), *arguments],
        }
        (self.folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        out = self.folder / "out.json"
        self._run("webui_live_driver.py", self.checkpoint, self.folder / "task.json", out, self.data)
        return json.loads(out.read_text(encoding="utf-8"))


def prepare(checkpoint: Path, folder: Path, run_in_webui: Callable[..., None]) -> Played:
    """A dataset, a LoRA, and another checkpoint and VAE to switch to."""
    played = Played(checkpoint, folder, run_in_webui)
    pictures = folder / "pictures" / "1_zorb"
    pictures.mkdir(parents=True)
    for index in range(4):
        Image.new("RGB", (64, 64), (60 * index, 90, 200)).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text("zorb, red", encoding="utf-8")
    (played.data / "Lora").mkdir(parents=True)
    save_network(played.data / "Lora" / f"{LORA}.safetensors", random_network(checkpoint), "float", {})
    other = folder / "other"
    other.mkdir()
    tensors = load_file(checkpoint)
    changed = {key: tensor * 0.9 if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    save_file(changed, str(other / "other.safetensors"))
    for ending in (".yaml", ".open_clip.json"):
        if checkpoint.with_suffix(ending).is_file():
            shutil.copyfile(checkpoint.with_suffix(ending), (other / "other").with_suffix(ending))
    prefix = "first_stage_model."
    vae = {key[len(prefix) :]: tensor.clone() for key, tensor in changed.items() if key.startswith(prefix)}
    save_file(vae, str(folder / "changed.vae.safetensors"))
    return played


def random_network(checkpoint: Path) -> Network:
    model = load_model(checkpoint)
    network = Network.create(model.unet, model.text_encoders, NetworkSpec(3, 2.0, conv_rank=2, conv_alpha=1.0), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.fixture(scope="module")
def play(webui_families, run_in_webui, tmp_path_factory) -> Callable[[str], Played]:
    """The scenes with a family's checkpoint, played once."""
    known: dict[str, Played] = {}

    def play(family: str) -> Played:
        if family not in known:
            played = prepare(webui_families(family), tmp_path_factory.mktemp("live"), run_in_webui)
            played.scenes = played.play(SD1_SCENES if family == "SD1" else SCENES)
            known[family] = played
        return known[family]

    return play


@pytest.fixture(params=["SD1", "SD2", "SDXL"])
def played(request, play) -> Played:
    return play(request.param)


@pytest.fixture
def sd1(play) -> dict:
    """With more scenes than the other families have."""
    return play("SD1").scenes


def test_a_job_shares_every_tensor_and_leaves_no_trace(played):
    job = played.scenes["a_job"]
    assert job["shared"] == job["parameters"] > 500
    assert len(job["losses"]) == 6 and job["previewer"] and job["notes"] == []
    assert job["left"] == ALL


def test_what_the_unet_predicts_is_the_webuis_word(played):
    model = load_model(played.checkpoint)
    assert played.scenes["a_job"]["prediction"] == [model.prediction_type, "the WebUI", False]


def test_a_lora_left_in_the_weights_changes_nothing(played):
    scene = played.scenes["after_a_lora"]
    assert scene["lora acts"] and scene["merged"], "the LoRA must be in the weights when the job begins"
    assert scene["same"] and scene["left"] == ALL


@pytest.mark.parametrize("scene, written", [("stopped", ["stopped-step00000003.safetensors"]), ("aborted", [])])
def test_a_job_that_is_ended_early_leaves_no_trace(sd1, scene, written):
    assert sd1[scene]["steps"] == 3 and sd1[scene]["written"] == written
    assert sd1[scene]["left"] == ALL


@pytest.mark.parametrize(
    "fault, error",
    [
        ("fail", "RuntimeError: thrown inside a step"),
        ("take_too_much", "can't allocate memory"),
        ("say_the_card_is_full", "StudioError: train_batch_size: the card's memory is full at step 3"),
    ],
)
def test_a_job_that_fails_leaves_no_trace(sd1, fault, error):
    failed = sd1["failed"][fault]
    assert error in failed["error"] and failed["steps"] == 2
    assert failed["left"] == ALL


def test_others_generate_in_a_pause_and_the_lora_is_the_same(played):
    paused = played.scenes["paused"]
    assert paused["picture"] and paused["lora picture"]
    assert paused["held"] == [0, 0, 0], "a paused job keeps nothing of the model in memory"
    assert paused["same"] and paused["steps"] == 6 and paused["left"] == ALL


def test_a_switched_checkpoint_is_put_back(played):
    scene = played.scenes["switched_and_put_back"]
    assert scene["loaded"] == played.checkpoint.name
    assert scene["same"] and scene["left"] == ALL


def test_or_the_job_waits_and_says_what_is_loaded(sd1, webui_checkpoint):
    scene = sd1["switched_and_left"]
    assert f"the WebUI has loaded other.safetensors and not {webui_checkpoint.name}" in scene["error"]
    assert scene["free"], "nothing is held then"
    assert scene["same"] and scene["left"] == ALL


def test_previews_show_what_the_saved_file_shows(played):
    scene = played.scenes["previews"]
    assert scene["acts"] > 10 * GREY_LEVELS, "the LoRA must do something"
    assert scene["written"] == 0
    assert scene["ours"] <= GREY_LEVELS and scene["file"] <= GREY_LEVELS


def test_previews_leave_nothing_behind(played):
    scene = played.scenes["previews"]
    assert scene["untouched"] and scene["settings"] and scene["history"] and scene["cache"]
    assert "unknown name" in scene["unknown sampler"] and "alone" in scene["another lora"]
    assert scene["left"] == ALL


def test_an_overwritten_file_is_used_with_its_new_weights(played):
    scene = played.scenes["files"]
    assert scene["listed"] and scene["changed"] and scene["new weights"]


def test_the_webuis_own_loader_checks_a_file(played):
    scene = played.scenes["files"]
    keys, matched, unmatched, change = scene["check"]
    assert keys == matched > 100 * LORA_KEYS and unmatched == [] and change > 0.01
    assert scene["backups"] == 0
    odd = [f"lora_unet_nowhere.lora_{part}.weight" for part in ("down", "up")]
    assert scene["odd"][:2] == [keys + 2, keys] and sorted(scene["odd"][2]) == odd
    assert "broken.safetensors" in scene["broken"]
    assert scene["left"] == ALL


def test_the_model_leaves_for_a_while_and_whoever_wants_it_waits(sd1):
    scene = sd1["unloaded"]
    assert scene == {"nobody waits": True, "waits": True, "same": True, "left": ALL}


def test_the_command_line_gives_the_same_lora(played):
    options = {**played.train, "output_name": "by_command", "output_dir": str(played.folder / "by_command")}
    arguments = [argument for name, value in options.items() for argument in (f"--{name}", str(value))]
    command = [os.environ["SD_WEBUI_PYTHON"], "-m", "lib_lora", "train", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
    assert done.returncode == 0, done.stderr[-3000:]
    ours = load_file(played.folder / "by_command" / "by_command.safetensors")
    live = load_file(played.data / "Lora" / "fresh.safetensors")
    assert set(ours) == set(live)
    assert all(torch.equal(ours[key], live[key]) for key in ours)


FLAGS = {
    "medvram": (["--medvram"], {}),
    "lowvram": (["--lowvram"], {}),
    "8 bits and copies": ([], {"fp8_storage": "Enable", "cache_fp16_weight": True}),
    "8 bits": ([], {"fp8_storage": "Enable", "cache_fp16_weight": False}),
}


@pytest.fixture(scope="module", params=FLAGS)
def flagged(request, webui_checkpoint, run_in_webui, tmp_path_factory) -> Played:
    """The WebUI with flags and settings for small cards."""
    played = prepare(webui_checkpoint, tmp_path_factory.mktemp("flags"), run_in_webui)
    played.flags, (arguments, settings) = request.param, FLAGS[request.param]
    played.scenes = played.play(["a_job", "after_a_lora", "paused", "previews"], *arguments, **settings)
    return played


def test_with_flags_for_small_cards_nothing_is_left_either(flagged):
    for name, scene in flagged.scenes.items():
        assert scene["left"] == ALL, name
    assert flagged.scenes["after_a_lora"]["same"] and flagged.scenes["paused"]["same"]
    assert flagged.scenes["previews"]["acts"] > 10 * GREY_LEVELS and flagged.scenes["previews"]["untouched"]


def test_weights_in_8_bits_are_not_trained_on_and_that_is_said(flagged):
    job = flagged.scenes["a_job"]
    if "8 bits" not in flagged.flags:
        assert job["shared"] == job["parameters"] and job["notes"] == []
    elif "copies" in flagged.flags:
        assert "16-bit copies" in job["notes"][0]
        assert job["shared"] < job["parameters"] == job["half"] + job["shared"], "what is not shared is a copy's"
    else:
        assert "from its file" in job["notes"][0] and job["shared"] == 0


@pytest.mark.parametrize("what, said", [("vae", "the VAE changed.vae.safetensors"), ("weights", "have changed")])
def test_another_vae_and_changed_weights_are_noticed_and_put_back(sd1, what, said):
    scene = sd1["vae_switched"]
    assert said in scene[what]["error"]
    assert scene[what]["same"] and scene[what]["vae"] is None
    # Loading a VAE the WebUI itself leaves a wrapper in another mode.
    assert {**scene["left"], "modes": True} == ALL


def test_the_webui_shows_how_far_a_job_is(sd1):
    shown = sd1["a_preview_is_interrupted"]["shown"]
    assert (shown["job"], shown["textinfo"]) == ("a job", "a job: step 2")
    assert (shown["job_count"], shown["job_no"], shown["sampling_step"], shown["sampling_steps"]) == (1, 0, 2, 8)
    assert sd1["a_preview_is_interrupted"]["ended"]["job"] == ""


def test_its_interrupt_ends_a_preview_and_reaches_the_job(sd1):
    scene = sd1["a_preview_is_interrupted"]
    assert scene["pictures"] == 0 and scene["steps"] == 4
    assert {**scene["still shown"], "interrupted": False} == scene["shown"]
    assert scene["interrupted"] == [True, False]
    assert scene["others interrupt"] is False


def test_the_host_says_what_the_webui_says(sd1, play):
    said, played = sd1["host_says"], play("SD1")
    assert said["defaults"]["clip_skip"] == 2
    assert said["datasets"] == ["/one", "/two"]
    assert said["usual datasets"] == [str(played.data / "datasets"), str(ROOT / "demo")]
    assert str(played.checkpoint.parent) in said["models"] and str(played.data / "models" / "VAE") in said["models"]
    assert said["outputs"] == [str(played.data / "Lora"), str(played.data / "lora_studio")]
    assert said["loaded"] == [played.checkpoint.name] and said["known"] >= 2
    assert {"Euler a", "DPM++ 2M"} <= set(said["samplers"])
    assert said["version"].startswith(("v1", "1.")) and said["lends"]


def test_the_host_refuses_what_is_not_there(sd1):
    said = sd1["host_says"]
    assert "does not know this checkpoint" in said["unknown"]
    assert said["other device"].startswith("device:") and said["other vae"].startswith("vae:")


def test_the_host_knows_whether_others_can_reach_it(sd1):
    assert sd1["host_says"]["exposed"] == {
        "usual": False,
        "listen True": True,
        "share True": True,
        "ngrok token": True,
        "server_name 0.0.0.0": True,
        "server_name 127.0.0.1": False,
        "server_name localhost": False,
        "nowebui True": True,
    }
