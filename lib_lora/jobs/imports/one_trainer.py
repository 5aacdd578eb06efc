"""Settings and presets of OneTrainer (JSON).

A preset holds what differs from OneTrainer's defaults, which stand here where ours are others. Source:
Nerogar/OneTrainer 23df383, modules/util/config/TrainConfig.py, modules/util/create.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

from lib_lora.jobs.imports.taken import Translation, is_off

_DEFAULTS: dict[str, Any] = {
    "learning_rate": 3e-6,
    "learning_rate_warmup_steps": 200,
    "learning_rate_scheduler": "CONSTANT",
    "epochs": 100,
    "batch_size": 1,
    "lora_rank": 16,
    "lora_alpha": 1.0,
    "peft_type": "LORA",
    "train_dtype": "FLOAT_16",
    "output_dtype": "FLOAT_32",
    "loss_weight_fn": "CONSTANT",
    "loss_weight_strength": 5.0,
    "text_encoder_layer_skip": 0,
}
# Those that mean the same.
_SAME = {
    "base_model_name": "pretrained_model_name_or_path",
    "batch_size": "train_batch_size",
    "epochs": "max_train_epochs",
    "learning_rate": "learning_rate",
    "learning_rate_warmup_steps": "lr_warmup_steps",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "lora_rank": "network_dim",
    "lora_alpha": "network_alpha",
    "dropout_probability": "network_dropout",
    "clip_grad_norm": "max_grad_norm",
    "offset_noise_weight": "noise_offset",
    "aspect_ratio_bucketing": "enable_bucket",
    "latent_caching": "cache_latents",
    "rescale_noise_scheduler_to_zero_terminal_snr": "zero_terminal_snr",
    "force_v_prediction": "v_parameterization",
    "masked_training": "masked_loss",
    "lora_decompose": "dora_wd",
    "lokr_decompose_both": "decompose_both",
    "lokr_decompose_factor": "factor",
    "lokr_full_matrix": "full_matrix",
    "lokr_use_tucker": "use_tucker",
    "lora_model_name": "network_weights",
    "seed": "seed",
}
_ONLY_OF = {"lokr_": "LOKR", "oft_": "OFT_2"}
_PRECISIONS = {"FLOAT_32": "no", "TFLOAT_32": "no", "FLOAT_16": "fp16", "BFLOAT_16": "bf16"}
_SAVED = {"FLOAT_32": "float", "FLOAT_16": "fp16", "BFLOAT_16": "bf16"}
_NETWORKS = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr", "OFT_2": "diag-oft"}
_SCHEDULES = {
    "CONSTANT": "constant",
    "LINEAR": "linear",
    "COSINE": "cosine",
    "COSINE_WITH_RESTARTS": "cosine_with_restarts",
    "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
    "REX": "rex",
    "ADAFACTOR": "adafactor",
}
_OPTIMIZERS = {
    "SCHEDULE_FREE_ADAMW": "AdamWScheduleFree",
    "SCHEDULE_FREE_SGD": "SGDScheduleFree",
    "DADAPT_ADA_GRAD": "DAdaptAdaGrad",
    "SGD": "SGDNesterov",
}
_ARGUMENTS = {"beta1", "beta2", "beta3", "optimizer", "fused", "foreach", "fused_back_pass", "stochastic_rounding"}
# How it caches, shows, saves backups, spreads work and keeps other models' settings: nothing of it is in the LoRA.
_ITS_OWN = re.compile(
    r"(__|debug|workspace|cache|huggingface|offline|tensorboard|validation|validate|continue_last|prevent_|include_|"
    r"multi_gpu|device_|gradient_reduce|fused_|async_|output_|compile|concept|latent_|clear_cache|scheduler_params|"
    r"custom_learning|ema|dataloader|train_device|temp_device|train_dtype|fallback|enable_autocast|only_cache|frames|"
    r"attention_mechanism|mse_strength|huber_delta|loss_weight_|loss_scaler|layer_filter_preset|training_method|"
    r"model_type|quantization|vae|prior|transformer|unconditional|effnet|decoder|embedding|additional_emb|"
    r"text_encoder_2|text_encoder_3|text_encoder_4|lora_weight_dtype|bundle_|optimizer|sample|non_ema|cloud|backup|"
    r"rolling|save_|secrets|dynamic_timestep|unmasked_prob|normalize_masked|custom_conditioning|preserve_|config_version|"
    r"learning_rate$|learning_rate_warmup|learning_rate_scheduler|learning_rate_cycles|min_noising|max_noising|"
    r"peft_type|unet|text_encoder$|text_encoder_layer_skip|resolution|lora_decompose_|timestep_distribution|"
    r"gradient_checkpointing|gradient_accumulation|force_circular)"
)
_WHY = {
    "perturbation_noise_weight": "is noise that is learned, too; ip_noise_gamma is not",
    "layer_filter": "network_targets has other choices",
    "learning_rate_scaler": "the rate stands as it is here: multiply it by hand",
}
_NEUTRAL = {"timestep_shift": 1.0}
_EVEN = "timesteps are drawn evenly here"
_WHY |= {name: _EVEN for name in ("timestep_shift", "noising_weight", "noising_bias")}
_WHY |= {f"{kind}_strength": "loss_type is one kind of loss" for kind in ("mae", "log_cosh", "huber", "vb_loss")}


def knows(document: Mapping[str, Any]) -> bool:
    return "training_method" in document or ("base_model_name" in document and "model_type" in document)


def translate(document: Mapping[str, Any]) -> Translation:
    translation = Translation()
    method = document.get("training_method", "LORA")
    if method != "LORA":
        translation.leave_out("training_method", f"{method} is not trained here, but a LoRA")
    family = str(document.get("model_type", ""))
    if not family.startswith("STABLE_DIFFUSION") or "_3" in family:
        translation.leave_out("model_type", f"{family} is not trained here")
    values = {**_DEFAULTS, **document}
    for key, name in _SAME.items():
        owner = next((kind for prefix, kind in _ONLY_OF.items() if key.startswith(prefix)), None)
        if key in values and values[key] is not None and owner in (None, values["peft_type"]):
            translation.take(key, name, values[key], None if key in document else "OneTrainer's default")
    _parts(translation, values)
    _words(translation, values, document)
    _loss(translation, values)
    _optimizer(translation, values.get("optimizer"))
    _saves(translation, values)
    _concepts(translation, values.get("concepts"))
    _others(translation, document)
    return translation


def _others(translation: Translation, document: Mapping[str, Any]) -> None:
    """What is neither understood nor OneTrainer's own business."""
    masked = bool(document.get("masked_training"))
    for key, value in document.items():
        unused = key.startswith(tuple(_ONLY_OF)) or (key == "unmasked_weight" and not masked)
        if key in _SAME or unused or is_off(value) or value in ("NONE", _NEUTRAL.get(key)) or _ITS_OWN.match(key):
            continue
        translation.leave_out(key, _WHY.get(key, "there is no such option here"))


def _parts(translation: Translation, values: Mapping[str, Any]) -> None:
    unet, texts = values.get("unet") or {}, [values.get(name) or {} for name in ("text_encoder", "text_encoder_2")]
    for key, part in (("unet", unet), ("text_encoder", texts[0])):
        if not is_off(part.get("stop_training_after")) and str(part.get("stop_training_after_unit")) != "NEVER":
            translation.leave_out(f"{key}.stop_training_after", "a part is trained to the end here, or not at all")
    if unet.get("train") is False:
        translation.take("unet.train", "network_train_text_encoder_only", True)
    if texts[0].get("train") is False and texts[1].get("train", False) is False:
        translation.take("text_encoder.train", "network_train_unet_only", True)
    if unet.get("learning_rate") is not None:
        translation.take("unet.learning_rate", "unet_lr", unet["learning_rate"])
    rates = [part["learning_rate"] for part in texts if part.get("learning_rate") is not None]
    if rates:
        translation.take("text_encoder.learning_rate", "text_encoder_lr", rates)


def _words(translation: Translation, values: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Choices by name."""
    for key, name, known in (
        ("peft_type", "network_args", _NETWORKS),
        ("learning_rate_scheduler", "lr_scheduler", _SCHEDULES),
        ("train_dtype", "mixed_precision", _PRECISIONS),
        ("output_dtype", "save_precision", _SAVED),
    ):
        word = str(values[key])
        if word not in known:
            translation.leave_out(key, f"{word} is not there")
        elif name == "network_args":
            translation.take(key, "network_args", {"algo": known[word]})
        else:
            translation.take(key, name, known[word], None if key in document else "OneTrainer's default")
    resolution = str(values.get("resolution", "512"))
    if "," in resolution:
        translation.leave_out("resolution", f"several at once ({resolution}): choose one")
    else:
        translation.take("resolution", "resolution", resolution)
    skipped = int(values["text_encoder_layer_skip"])
    translation.take(
        "text_encoder_layer_skip", "clip_skip", skipped + 1, f"{skipped} layers left out is clip_skip {skipped + 1}"
    )
    if not is_off(values.get("learning_rate_cycles")) and float(values["learning_rate_cycles"]) >= 1:
        translation.take("learning_rate_cycles", "lr_scheduler_num_cycles", int(float(values["learning_rate_cycles"])))
    for end, default in (("min", 0), ("max", 1)):
        key = f"{end}_noising_strength"
        if float(values.get(key, default)) != default:
            timestep = round(1000 * float(values[key]))
            translation.take(key, f"{end}_timestep", timestep, f"{values[key]} of the way is timestep {timestep}")
    if str(values.get("ema", "OFF")) not in ("OFF", "None"):
        translation.take("ema_decay", "ema_decay", values.get("ema_decay", 0.999))


def _loss(translation: Translation, values: Mapping[str, Any]) -> None:
    kind = str(values["loss_weight_fn"])
    if kind == "MIN_SNR_GAMMA":
        translation.take("loss_weight_strength", "min_snr_gamma", values["loss_weight_strength"])
    elif kind == "DEBIASED_ESTIMATION":
        translation.take("loss_weight_fn", "debiased_estimation_loss", True)
    elif kind != "CONSTANT":
        translation.leave_out("loss_weight_fn", f"{kind} is not there")


def _optimizer(translation: Translation, optimizer: Any) -> None:
    if not optimizer:
        return
    given = dict(optimizer) if isinstance(optimizer, Mapping) else {"optimizer": optimizer}
    name = str(given.get("optimizer", "ADAMW"))
    translation.take("optimizer", "optimizer_type", _OPTIMIZERS.get(name, name.replace("_", "")))
    arguments = {key: value for key, value in given.items() if key not in _ARGUMENTS and value is not None}
    betas = [given[key] for key in ("beta1", "beta2", "beta3") if given.get(key) is not None]
    if len(betas) > 1 and name != "ADAFACTOR":
        arguments["betas"] = ",".join(map(str, betas))
    translation.take("optimizer", "optimizer_args", [f"{key}={value}" for key, value in arguments.items()])


def _saves(translation: Translation, values: Mapping[str, Any]) -> None:
    path = values.get("output_model_destination")
    if path:
        translation.take("output_model_destination", "output_name", PureWindowsPath(str(path)).stem)
    every, unit = values.get("save_every", 0), str(values.get("save_every_unit", "NEVER"))
    names = {"EPOCH": "save_every_n_epochs", "STEP": "save_every_n_steps"}
    if every and unit in names:
        translation.take("save_every", names[unit], every)
    elif every and unit != "NEVER":
        translation.leave_out("save_every", "saves are made after steps or epochs here, not after a time")


def _concepts(translation: Translation, concepts: Any) -> None:
    if not concepts:
        return
    enabled = [each for each in concepts if each.get("enabled", True)]
    if len(enabled) != 1:
        translation.leave_out("concepts", f"{len(enabled)} folders: put them into one, each named <repeats>_<name>")
        return
    concept, text = enabled[0], enabled[0].get("text") or {}
    translation.take("concepts.path", "train_data_dir", concept.get("path", ""))
    for key, name in (
        ("enable_tag_shuffling", "shuffle_caption"),
        ("keep_tags_count", "keep_tokens"),
        ("tag_delimiter", "caption_separator"),
    ):
        if not is_off(text.get(key)):
            translation.take(f"concepts.text.{key}", name, text[key])
    if text.get("tag_dropout_enable"):
        translation.take("concepts.text.tag_dropout_probability", "caption_tag_dropout_rate",
                         text.get("tag_dropout_probability", 0))  # fmt: skip
    if (concept.get("image") or {}).get("enable_random_flip"):
        translation.take("concepts.image.enable_random_flip", "flip_aug", True)
