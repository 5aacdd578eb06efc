from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lib_lora.base.errors import StudioError
from lib_lora.base.options import options_of
from lib_lora.base.protocols import ModelFile
from lib_lora.base.signals import Control
from lib_lora.jobs.imports.lora import options_from_lora
from lib_lora.jobs.presets import usable_optimizers
from lib_lora.jobs.train_form import read_form
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run

# What sd-scripts 48d368f (train_network.py) writes of a run, through whichever GUI, as text.
SD_SCRIPTS = {
    "ss_session_id": "2838742",
    "ss_training_started_at": "1699012345.6",
    "ss_output_name": "penny",
    "ss_learning_rate": "1.0",
    "ss_text_encoder_lr": "1.0",
    "ss_unet_lr": "1.0",
    "ss_num_train_images": "400",
    "ss_num_reg_images": "0",
    "ss_num_batches_per_epoch": "200",
    "ss_num_epochs": "5",
    "ss_gradient_checkpointing": "True",
    "ss_gradient_accumulation_steps": "1",
    "ss_max_train_steps": "1000",
    "ss_lr_warmup_steps": "100",
    "ss_lr_scheduler": "cosine_with_restarts",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "64",
    "ss_network_alpha": "32.0",
    "ss_network_dropout": "None",
    "ss_mixed_precision": "bf16",
    "ss_full_fp16": "False",
    "ss_v2": "False",
    "ss_base_model_version": "sd_v1",
    "ss_clip_skip": "2",
    "ss_max_token_length": "225",
    "ss_cache_latents": "True",
    "ss_seed": "420",
    "ss_lowram": "False",
    "ss_noise_offset": "0.06",
    "ss_multires_noise_iterations": "None",
    "ss_adaptive_noise_scale": "None",
    "ss_zero_terminal_snr": "False",
    "ss_training_comment": "LORA:penny",
    "ss_sd_scripts_commit_hash": "48d368f",
    "ss_optimizer": "prodigyopt.prodigy.Prodigy(decouple=True,weight_decay=0.01,d_coef=2,betas=(0.9, 0.99))",
    "ss_max_grad_norm": "1.0",
    "ss_caption_dropout_rate": "0.1",
    "ss_caption_tag_dropout_rate": "0.0",
    "ss_face_crop_aug_range": "None",
    "ss_prior_loss_weight": "1.0",
    "ss_min_snr_gamma": "5.0",
    "ss_scale_weight_norms": "None",
    "ss_ip_noise_gamma": "None",
    "ss_debiased_estimation": "False",
    "ss_loss_type": "l2",
    "ss_huber_schedule": "snr",
    "ss_huber_c": "0.1",
    "ss_fp8_base": "False",
    "ss_batch_size_per_device": "2",
    "ss_total_batch_size": "2",
    "ss_resolution": "(512, 512)",
    "ss_color_aug": "False",
    "ss_flip_aug": "True",
    "ss_random_crop": "False",
    "ss_shuffle_caption": "True",
    "ss_enable_bucket": "True",
    "ss_bucket_no_upscale": "False",
    "ss_min_bucket_reso": "320",
    "ss_max_bucket_reso": "768",
    "ss_keep_tokens": "1",
    "ss_dataset_dirs": json.dumps({"10_penny": {"n_repeats": 10, "img_count": 40}}),
    "ss_tag_frequency": json.dumps({"10_penny": {"penny": 40}}),
    "ss_bucket_info": "{}",
    "ss_sd_model_name": "animefull.safetensors",
    "ss_sd_model_hash": "e6e8e1fc",
    "sshs_model_hash": "0" * 64,
    "modelspec.title": "penny",
}


@pytest.fixture
def read(host, tmp_path):
    def read(parts=("unet", "te"), **changes):
        metadata = {key: value for key, value in {**SD_SCRIPTS, **changes}.items() if value is not None}
        path = tmp_path / "other.safetensors"
        save_file({f"lora_{part}_x.alpha": torch.zeros(1) for part in parts}, str(path), metadata=metadata)
        return options_from_lora(path, host)

    return read


def reasons(taken) -> dict[str, str]:
    return dict(taken.left_out)


def test_a_run_of_sd_scripts_becomes_options(read):
    taken = read()
    expected = {
        "learning_rate": 1.0,
        "text_encoder_lr": (1.0,),
        "unet_lr": 1.0,
        "max_train_epochs": 5,
        "gradient_checkpointing": True,
        "gradient_accumulation_steps": 1,
        "lr_warmup_steps": 100,
        "lr_scheduler": "cosine_with_restarts",
        "network_type": "LoRA",
        "network_dim": 64,
        "network_alpha": 32,
        "mixed_precision": "bf16",
        "clip_skip": 2,
        "max_token_length": 225,
        "seed": 420,
        "noise_offset": 0.06,
        "optimizer_type": "Prodigy",
        "optimizer_args": ("decouple=True", "weight_decay=0.01", "d_coef=2", "betas=(0.9, 0.99)"),
        "max_grad_norm": 1.0,
        "caption_dropout_rate": 0.1,
        "caption_tag_dropout_rate": 0.0,
        "prior_loss_weight": 1.0,
        "min_snr_gamma": 5,
        "train_batch_size": 2,
        "resolution": "512",
        "flip_aug": True,
        "shuffle_caption": True,
        "enable_bucket": True,
        "bucket_no_upscale": False,
        "min_bucket_reso": 320,
        "max_bucket_reso": 768,
        "keep_tokens": 1,
        "network_train_unet_only": False,
        "network_train_text_encoder_only": False,
    }
    assert expected.items() <= taken.values.items()
    defaults = {info.name: info.default for info in options_of(TrainConfig)}
    others = {name: value for name, value in taken.values.items() if name not in expected}
    assert others == {name: defaults[name] for name in others}  # what the run did not use
    assert taken.left_out == [("ss_sd_model_name", "animefull.safetensors is not among the files here")]


def test_the_values_can_be_read_with_the_form(read, host, values):
    taken = json.loads(json.dumps(read().view()))["values"]
    chosen = {**values, "max_train_steps": None, **taken}
    config, _ = read_form(chosen, host)
    assert config.network_dim == 64 and config.max_train_epochs == 5


def test_our_own_run_comes_back_as_it_was(host, values, tmp_path):
    changes = {
        "network_dim": 3,
        "conv_dim": 2,
        "conv_alpha": 1.0,
        "unet_lr": 2e-3,
        "optimizer_args": ["weight_decay=0.02", "betas=0.9,0.95"],
        "shuffle_caption": True,
        "caption_prefix": "a picture of",
        "min_snr_gamma": 5,
        "max_train_steps": 2,
        "resolution": "64x128",
        "down_lr_weight": "cosine",
        "lr_scheduler": "polynomial",
        "lr_scheduler_power": 2.0,
        "rank_dropout": 0.1,
        "max_timestep": 900,
        "network_targets": "attention",
    }
    config, _ = read_form({**values, **changes}, host)
    list(Run(config, Control()).events())
    taken = options_from_lora(config.output_dir / "zorb.safetensors", host)
    assert taken.left_out == []
    own = {name: getattr(config, name) for name in taken.values}
    # Written out: the text encoder's rate is learning_rate, and arguments are Python's literals.
    own |= {"text_encoder_lr": (config.learning_rate,), "optimizer_args": taken.values["optimizer_args"]}
    assert taken.values == own
    assert set(changes) <= set(taken.values) and taken.values["pretrained_model_name_or_path"] == host.loaded
    assert taken.values["optimizer_args"] == ("weight_decay=0.02", "betas=(0.9, 0.95)")


def test_steps_that_were_no_whole_epochs_stay_steps(read):
    taken = read(ss_max_train_steps="950")
    assert taken.values["max_train_steps"] == 950 and "max_train_epochs" not in taken.values


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("torch.optim.adamw.AdamW(weight_decay=0.1)", "AdamW", ("weight_decay=0.1",)),
        ("torch.optim.adamw.AdamW", "AdamW", ()),
        ("dadaptation.dadapt_adam.DAdaptAdam(decouple=True)", "DAdaptAdam", ("decouple=True",)),
        ("transformers.optimization.Adafactor(relative_step=True,scale_parameter=True)", "AdaFactor",
         ("relative_step=True", "scale_parameter=True")),
        ("Prodigy(d_coef=2.0,betas=0.9,0.99)", "Prodigy", ("d_coef=2.0", "betas=(0.9, 0.99)")),
    ],
)  # fmt: skip
def test_optimizers_are_known_by_their_classes(read, text, name, arguments):
    values = read(ss_optimizer=text).values
    assert (values["optimizer_type"], values["optimizer_args"]) == (name, arguments)


def test_what_cannot_be_used_here_is_left_out_with_the_reason(read):
    assert "AdamW8bit" not in usable_optimizers() or torch.cuda.is_available()
    cases = {
        "ss_optimizer": ("nowhere.Nothing(x=1)", "not known here"),
        "ss_lr_scheduler": ("sawtooth", "schedule sawtooth"),
        "ss_network_module": ("networks.oft_flux", "networks.oft_flux"),
        "ss_full_fp16": ("True", "no such option"),
        "ss_brand_new": ("6", "no such option"),
        "ss_network_dim": ("many", "network_dim"),
        "ss_max_token_length": ("100000", "max_token_length"),
    }
    taken = read(**{key: value for key, (value, _) in cases.items()})
    for key, (_, words) in cases.items():
        assert words in reasons(taken)[key]
    assert not {"optimizer_type", "lr_scheduler", "network_type", "network_dim"} & set(taken.values)


def test_a_card_that_is_not_there_is_a_reason(read, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    taken = read(ss_optimizer="bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)")
    assert "AdamW8bit cannot be used on this machine" in reasons(taken)["ss_optimizer"]


def test_network_args_are_taken_one_by_one(read):
    arguments = {
        "conv_dim": "8",
        "conv_alpha": "4.0",
        "rank_dropout": "0.1",
        "dropout": None,
        "down_lr_weight": "cosine",
        "brand_new": "True",
        "not_used": "False",
    }
    taken = read(ss_network_args=json.dumps(arguments))
    assert taken.values["conv_dim"] == 8 and taken.values["conv_alpha"] == 4 and taken.values["rank_dropout"] == 0.1
    assert taken.values["down_lr_weight"] == ("cosine",)
    assert reasons(taken)["ss_network_args.brand_new"] == "there is no such option here"
    assert "ss_network_args.not_used" not in reasons(taken)


@pytest.mark.parametrize(("algorithm", "kind"), [("locon", "LoRA"), ("lora", "LoRA"), ("lokr", "LoKr"), ("abba", None)])
def test_lycoris_says_its_type_in_its_arguments(read, algorithm, kind):
    taken = read(ss_network_module="lycoris.kohya", ss_network_args=json.dumps({"algo": algorithm}))
    assert taken.values.get("network_type") == kind
    assert ("ss_network_args.algo" in reasons(taken)) == (kind is None)


def test_what_sd_scripts_did_unasked_is_said(read):
    values = read(
        ss_network_dim="None", ss_network_alpha="None", ss_clip_skip="None", ss_max_token_length="None"
    ).values
    assert (values["network_dim"], values["network_alpha"]) == (4, 1.0)
    assert (values["clip_skip"], values["max_token_length"]) == (1, 75)


@pytest.mark.parametrize(
    ("parts", "unet_only", "text_only"),
    [(["unet"], True, False), (["te"], False, True), (["unet", "te1", "te2"], False, False)],
)
def test_the_tensors_say_which_parts_were_trained(read, parts, unet_only, text_only):
    values = read(parts).values
    assert (values["network_train_unet_only"], values["network_train_text_encoder_only"]) == (unet_only, text_only)


def test_two_text_encoders_have_two_rates(read):
    assert read(ss_text_encoder_lr="[5e-05, 1e-05]").values["text_encoder_lr"] == (5e-5, 1e-5)


@pytest.mark.parametrize(("text", "value"), [("(512, 768)", "512x768"), ("768", "768"), ("512,512", "512")])
def test_resolutions_of_every_form(read, text, value):
    assert read(ss_resolution=text).values["resolution"] == value


def test_checkpoint_and_vae_are_found_by_their_names(read, host, tmp_path, monkeypatch):
    known = [ModelFile("a", tmp_path / "sub" / "animefull.safetensors")]
    monkeypatch.setattr(host, "checkpoints", lambda: known)
    monkeypatch.setattr(host, "vaes", lambda: [ModelFile("v", tmp_path / "v.pt")])
    taken = read(ss_sd_model_name="D:\\models\\animefull.safetensors", ss_vae_name="/x/v.pt")
    assert taken.values["pretrained_model_name_or_path"] == known[0].path and taken.values["vae"] == tmp_path / "v.pt"
    assert taken.left_out == []


def test_a_dataset_config_is_taken_as_far_as_its_parts_agree(read):
    datasets = [
        {"resolution": [640, 640], "batch_size_per_device": 3, "enable_bucket": True, "min_bucket_reso": 320,
         "subsets": [{"n_repeats": 2, "keep_tokens": 1, "flip_aug": False, "shuffle_caption": True}]},
        {"resolution": [512, 512], "batch_size_per_device": 3, "enable_bucket": True, "min_bucket_reso": 320,
         "subsets": [{"n_repeats": 5, "keep_tokens": 2, "flip_aug": False, "shuffle_caption": True}]},
    ]  # fmt: skip
    gone = dict.fromkeys(("ss_resolution", "ss_batch_size_per_device", "ss_keep_tokens", "ss_flip_aug"))
    taken = read(ss_datasets=json.dumps(datasets), **gone)
    assert taken.values["train_batch_size"] == 3 and taken.values["flip_aug"] is False
    assert reasons(taken)["ss_datasets.resolution"] == reasons(taken)["ss_datasets.keep_tokens"]
    assert not {"resolution", "keep_tokens"} & set(taken.values)


def test_a_lora_that_says_nothing_is_refused(host, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, str(path))
    with pytest.raises(StudioError, match="says nothing"):
        options_from_lora(path, host)
