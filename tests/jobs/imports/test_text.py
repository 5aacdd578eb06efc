"""Settings of other programs as those programs write them; the values expected are what their code makes of them."""

from __future__ import annotations

import json

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping, options_of
from lib_lora.base.protocols import ModelFile
from lib_lora.jobs.imports.text import options_from_text
from lib_lora.training.config import TrainConfig, check

OPTIONS = {info.name for info in options_of(TrainConfig)}


@pytest.fixture
def checkpoint(host, tmp_path, monkeypatch):
    path = tmp_path / "animefull.safetensors"
    path.touch()
    monkeypatch.setattr(host, "checkpoints", lambda: [ModelFile("animefull", path)])
    return path


def reasons(taken) -> dict[str, str]:
    return dict(taken.left_out)


def test_a_config_file_of_sd_scripts(host, checkpoint):
    taken = options_from_text(
        """
        [model]
        pretrained_model_name_or_path = "X:/models/animefull.safetensors"
        v_parameterization = true
        [network]
        network_module = "networks.lora"
        network_dim = 32
        network_args = ["conv_dim=8", "conv_alpha=4", "unknown=1"]
        [other]
        optimizer_type = "DAdaptAdam"
        optimizer_args = ["decouple=True", "betas=0.9,0.99"]
        resolution = "512,768"
        xformers = true
        save_model_as = "ckpt"
        sample_sampler = "euler_a"
        max_train_steps = 1000
        max_train_epochs = 7
        lowram = false
        """,
        host,
    )
    assert taken.source == "sd-scripts"
    assert taken.values["pretrained_model_name_or_path"] == checkpoint
    assert taken.values["network_dim"] == 32 and taken.values["conv_dim"] == 8
    assert taken.values["optimizer_args"] == ("decouple=True", "betas=0.9,0.99")
    assert taken.values["resolution"] == "512x768" and taken.values["attention"] == "xformers"
    assert taken.values["prediction_type"] == "v_prediction" and taken.values["sample_sampler"] == "Euler a"
    assert taken.values["max_train_epochs"] == 7 and "max_train_steps" not in taken.values
    assert {"save_model_as", "max_train_steps"} <= {key for key, _ in taken.changed}
    assert set(reasons(taken)) == {"network_args.unknown"}


@pytest.mark.parametrize("end", ["\\", "^", "`"], ids=["shell", "cmd", "PowerShell"])
def test_a_pasted_command(host, checkpoint, end):
    lines = [
        "accelerate launch --num_cpu_threads_per_process=8 train_network.py",
        r'--pretrained_model_name_or_path="D:\models\animefull.safetensors"',
        "--network_module networks.lora --network_dim=8",
        "--flip_aug --text_encoder_lr 5e-5 1e-5",
        "--optimizer_type AdamW --optimizer_args weight_decay=0.1 betas=0.9,0.99 --seed 7",
    ]
    taken = options_from_text(f" {end}\n".join(lines), host)
    assert taken.values == {
        "pretrained_model_name_or_path": checkpoint,
        "network_type": "LoRA",
        "network_dim": 8,
        "flip_aug": True,
        "text_encoder_lr": (5e-5, 1e-5),
        "optimizer_type": "AdamW",
        "optimizer_args": ("weight_decay=0.1", "betas=0.9,0.99"),
        "seed": 7,
        # What sd-scripts does without being asked.
        "network_alpha": 1,
        "learning_rate": 2e-6,
        "lr_scheduler": "constant",
        "enable_bucket": False,
        "save_precision": "float",
    }
    assert not taken.left_out
    assert all("default" in why for _, why in taken.changed) and len(taken.changed) == 5


def test_a_single_argument_of_a_network_or_an_optimizer_counts(host):
    words = "--network_module lycoris.kohya --network_args algo=loha --optimizer_args weight_decay=0.1"
    taken = options_from_text(f"train_network.py {words}", host)
    assert taken.values["network_type"] == "LoHa" and taken.values["optimizer_args"] == ("weight_decay=0.1",)
    assert not taken.left_out


def test_a_dataset_config_is_taken_as_far_as_its_parts_agree(host, tmp_path):
    for name in ("5_zorb", "2_glim"):
        (tmp_path / name).mkdir()
    taken = options_from_text(
        f"""
        [general]
        shuffle_caption = true
        [[datasets]]
        resolution = 640
        batch_size = 3
          [[datasets.subsets]]
          image_dir = '{tmp_path / "5_zorb"}'
          num_repeats = 5
          keep_tokens = 1
          [[datasets.subsets]]
          image_dir = '{tmp_path / "2_glim"}'
          num_repeats = 2
          keep_tokens = 2
        """,
        host,
    )
    assert taken.values == {
        "shuffle_caption": True,
        "resolution": "640",
        "train_batch_size": 3,
        "train_data_dir": tmp_path,
    }
    assert set(reasons(taken)) == {"datasets.subsets.keep_tokens"}


KOHYA = {
    "LoRA_type": "Standard",
    "LyCORIS_preset": "full",
    "additional_parameters": "--max_token_length=150",
    "bucket_reso_steps": 64,
    "caption_extension": ".txt",
    "conv_alpha": 1,
    "conv_dim": 100000,
    "epoch": 8,
    "factor": 6,
    "flux1_cache_text_encoder_outputs": True,
    "learning_rate": 0.0002,
    "lr_scheduler": "cosine",
    "lr_scheduler_num_cycles": "",
    "lr_warmup": 10,
    "max_resolution": "512,768",
    "max_timestep": 0,
    "max_train_epochs": "",
    "max_train_steps": "",
    "min_snr_gamma": 5,
    "mixed_precision": "bf16",
    "model_list": "custom",
    "module_dropout": 0.1,
    "network_alpha": 16,
    "network_dim": 32,
    "noise_offset": 0.05,
    "noise_offset_type": "Original",
    "multires_noise_iterations": 6,
    "num_processes": 1,
    "optimizer": "AdamW",
    "optimizer_args": '"weight_decay=0.4" "betas=0.9,0.99"',
    "sample_prompts": "a cat --w 512",
    "seed": "",
    "stop_text_encoder_training": 40,
    "text_encoder_lr": 0,
    "unet_lr": 0.0001,
    "xformers": "sdpa",
}


def test_kohya_ss(host):
    taken = options_from_text(json.dumps(KOHYA), host)
    assert taken.source == "kohya_ss"
    assert taken.values == {
        "network_type": "LoRA",
        "module_dropout": 0.1,
        "network_train_unet_only": True,
        "bucket_reso_steps": 64,
        "caption_extension": ".txt",
        "learning_rate": 2e-4,
        "lr_scheduler": "cosine",
        "max_train_epochs": 8,
        "lr_warmup_steps": 0.1,
        "resolution": "512x768",
        "min_snr_gamma": 5,
        "mixed_precision": "bf16",
        "network_alpha": 16,
        "network_dim": 32,
        "noise_offset": 0.05,
        "optimizer_type": "AdamW",
        "optimizer_args": ("weight_decay=0.4", "betas=0.9,0.99"),
        "unet_lr": 1e-4,
        "attention": "sdpa",
        "max_token_length": 150,
    }
    assert {key for key, _ in taken.changed} == {"text_encoder_lr", "lr_warmup"}
    assert set(reasons(taken)) == {"stop_text_encoder_training", "sample_prompts"}


def test_kohya_ss_uses_a_networks_settings_only_with_that_network(host):
    """Its file has conv_dim for every network; its command for LoCon alone."""
    taken = options_from_text(json.dumps({**KOHYA, "LoRA_type": "LyCORIS/LoCon", "conv_dim": 8}), host)
    assert (taken.values["conv_dim"], taken.values["conv_alpha"]) == (8, 1)


def test_kohya_ss_keeps_steps_of_warm_up_and_the_precision_of_the_vae(host):
    document = {**KOHYA, "lr_warmup": 0, "lr_warmup_steps": 100, "sdxl_no_half_vae": True, "loraplus_lr_ratio": 0}
    taken = options_from_text(json.dumps(document), host)
    assert taken.values["lr_warmup_steps"] == 100 and taken.values["no_half_vae"] is True
    assert not {"lr_warmup_steps", "loraplus_lr_ratio"} & set(reasons(taken))


def test_lora_easy_training_scripts(host, checkpoint, tmp_path):
    (tmp_path / "10_zorb").mkdir()
    text = f"""
    [[subsets]]
    image_dir = '{tmp_path / "10_zorb"}'
    num_repeats = 10
    keep_tokens = 1
    shuffle_caption = true
    [train_mode]
    train_mode = "lora"
    [general_args.args]
    pretrained_model_name_or_path = "animefull.safetensors"
    mixed_precision = "bf16"
    max_train_epochs = 4
    sdxl = false
    [general_args.dataset_args]
    resolution = [512, 768]
    batch_size = 2
    [network_args.args]
    network_dim = 8
    [network_args.args.network_args]
    conv_dim = 4
    [optimizer_args.args]
    optimizer_type = "AdamW"
    warmup_ratio = 0.05
    [optimizer_args.args.optimizer_args]
    weight_decay = "0.1"
    [saving_args.args]
    output_name = "zorb"
    save_toml = true
    """
    taken = options_from_text(text, host)
    assert taken.source == "LoRA_Easy_Training_Scripts"
    assert taken.values == {
        "pretrained_model_name_or_path": checkpoint,
        "mixed_precision": "bf16",
        "max_train_epochs": 4,
        "resolution": "512x768",
        "train_batch_size": 2,
        "network_dim": 8,
        "network_type": "LoRA",
        "conv_dim": 4,
        "optimizer_type": "AdamW",
        "optimizer_args": ("weight_decay=0.1",),
        "lr_warmup_steps": 0.05,
        "output_name": "zorb",
        "train_data_dir": tmp_path,
        "keep_tokens": 1,
        "shuffle_caption": True,
    }
    assert not taken.left_out


def test_one_trainer_with_its_defaults(host):
    document = {
        "base_model_name": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "batch_size": 4,
        "learning_rate": 0.0003,
        "model_type": "STABLE_DIFFUSION_15",
        "output_model_destination": "models/zorb.safetensors",
        "training_method": "LORA",
        "resolution": "512",
        "text_encoder": {"train": True, "learning_rate": 0.0001},
        "loss_weight_fn": "MIN_SNR_GAMMA",
        "text_encoder_layer_skip": 1,
        "min_noising_strength": 0.2,
        "timestep_shift": 1.5,
        "optimizer": {"optimizer": "ADAMW", "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "fused": True},
        "save_every": 2,
        "save_every_unit": "EPOCH",
        "masked_training": False,
    }
    taken = options_from_text(json.dumps(document), host)
    assert taken.source == "OneTrainer"
    expected = {
        "train_batch_size": 4,
        "learning_rate": 3e-4,
        "text_encoder_lr": (1e-4,),
        "network_type": "LoRA",
        "network_dim": 16,  # OneTrainer's defaults, from here on
        "network_alpha": 1.0,
        "max_train_epochs": 100,
        "lr_warmup_steps": 200,
        "lr_scheduler": "constant",
        "mixed_precision": "fp16",
        "save_precision": "float",
        "min_snr_gamma": 5,
        "clip_skip": 2,
        "min_timestep": 200,
        "optimizer_type": "AdamW",
        "optimizer_args": ("weight_decay=0.1", "betas=0.9,0.95"),
        "output_name": "zorb",
        "save_every_n_epochs": 2,
        "resolution": "512",
    }
    assert expected.items() <= taken.values.items()
    assert reasons(taken)["timestep_shift"] and "base_model_name" in reasons(taken)
    assert {"lora_rank", "text_encoder_layer_skip", "min_noising_strength"} <= {key for key, _ in taken.changed}


def test_one_trainer_lists_what_has_no_counterpart(host):
    document = {
        "training_method": "LORA",
        "model_type": "STABLE_DIFFUSION_15",
        "learning_rate_scaler": "BOTH",
        "generalized_offset_noise": True,
        "timestep_shift": 1.0,
        "unmasked_weight": 0.1,
        "text_encoder": {"train": True, "stop_training_after": 30, "stop_training_after_unit": "EPOCH"},
        "workspace_dir": "x",
    }
    left_out = reasons(options_from_text(json.dumps(document), host))
    assert set(left_out) == {"learning_rate_scaler", "generalized_offset_noise", "text_encoder.stop_training_after"}


def test_train_train(host):
    names = ["BASE", "IN01", "M00", "OUT03"]
    document = {
        "network_type": "c3lier",
        "network_rank": "16",
        "network_alpha": "8",
        "network_conv_rank": "4",
        "network_conv_alpha": "2",
        "image_size(height, width)": "512,768",
        "train_iterations": "1000",
        "train_learning_rate": "1e-4",
        "train_optimizer": "adamw",
        "train_lr_scheduler": "cosine_annealing",
        "train_seed": "-1",
        "train_snr_gamma": "5",
        "save_per_steps": "0",
        "save_lora_name": "zorb",
        "train_model_precision": "fp16",
        "network_blocks(BASE = TextEncoder)": names,
        "lora_trigger_word": "zorb",
        "mode": "LoRA",
        "vae": "None",
    }
    taken = options_from_text(json.dumps(document), host)
    assert taken.source == "TrainTrain"
    weights = taken.values.pop("block_lr_weight")
    assert len(weights) == 26 and sum(weights) == 4 and weights[0] == weights[2] == weights[13] == weights[17] == 1
    assert taken.values == {
        "network_type": "LoRA",
        "network_dim": 16,
        "network_alpha": 8,
        "conv_dim": 4,
        "conv_alpha": 2,
        "resolution": "768x512",
        "max_train_steps": 1000,
        "learning_rate": 1e-4,
        "optimizer_type": "AdamW",
        "lr_scheduler": "cosine",
        "min_snr_gamma": 5,
        "output_name": "zorb",
        "mixed_precision": "fp16",
        "objective": "denoising",
    }
    assert "Dataset tab" in reasons(taken)["lora_trigger_word"]


def test_train_trains_other_ways(host):
    document = {
        "mode": "iLECO",
        "network_rank": "4",
        "train_iterations": "300",
        "train_snr_gamma": "5",
        "image_mirroring": True,
        "original prompt": "red hat",
        "target prompt": "blue hat",
    }
    taken = options_from_text(json.dumps(document), host)
    expected = {"objective": "iLECO", "original_prompt": "red hat", "target_prompt": "blue hat", "max_train_steps": 300}
    assert expected.items() <= taken.values.items()
    assert {"train_snr_gamma", "image_mirroring"} <= set(reasons(taken))
    values = {"pretrained_model_name_or_path": "x.safetensors", "output_name": "hat", **taken.values}
    check(from_mapping(TrainConfig, values))
    assert "other-ways" in reasons(options_from_text(json.dumps({**document, "mode": "Difference"}), host))["mode"]


def test_every_setting_is_understood_or_listed(host):
    """Nothing that is set vanishes without a word, but what the GUI keeps for itself."""
    taken = options_from_text(json.dumps({**KOHYA, "brand_new_setting": 3}), host)
    assert "brand_new_setting" in reasons(taken)
    assert set(taken.values) <= OPTIONS
    assert {each["option"] for each in taken.view()["understood"]} == set(taken.values)


def test_an_exposed_host_is_not_asked_for_files(host, tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    monkeypatch.setattr(host, "exposed", lambda: True)
    taken = options_from_text(f"train_data_dir = '{tmp_path / 'secret'}'\nnetwork_dim = 4", host)
    assert taken.values["network_dim"] == 4 and "train_data_dir" not in taken.values
    assert "train_data_dir" in reasons(taken)


@pytest.mark.parametrize(
    "document",
    [
        {"LoRA_type": "Standard", "lr_warmup": "x"},
        {"training_method": "LORA", "text_encoder_layer_skip": "one"},
        {"datasets": 5},
        {"datasets": ["x"]},
        {"general_args": {"args": {}}, "subsets": 5},
    ],
)
def test_settings_that_no_program_writes_like_this_are_refused_in_a_sentence(host, document):
    with pytest.raises(StudioError, match="is not as .* writes it"):
        options_from_text(json.dumps(document), host)


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "{", "a b c", "", '{"model": {"lr": 1}}', '--x "a'])
def test_what_is_none_is_refused(host, text):
    with pytest.raises(StudioError):
        options_from_text(text, host)
