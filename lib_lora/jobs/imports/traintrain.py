"""Settings and presets of the WebUI's extension TrainTrain (JSON).

Source: hako-mikan/sd-webui-traintrain 7b58929, scripts/traintrain.py, trainer/trainer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_lora.arch.blocks import BASE, BLOCK_LISTS
from lib_lora.arch.family import Family
from lib_lora.jobs.imports.taken import Translation, is_off
from lib_lora.training.objective_checks import means_nothing, own_options

_NAMES = {
    "network_rank": "network_dim",
    "network_alpha": "network_alpha",
    "lora_data_directory": "train_data_dir",
    "train_iterations": "max_train_steps",
    "train_batch_size": "train_batch_size",
    "train_learning_rate": "learning_rate",
    "train_optimizer": "optimizer_type",
    "save_lora_name": "output_name",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "image_buckets_step": "bucket_reso_steps",
    "image_min_length": "min_bucket_reso",
    "image_mirroring": "flip_aug",
    "image_disable_upscale": "bucket_no_upscale",
    "train_lr_warmup_steps": "lr_warmup_steps",
    "train_lr_scheduler_num_cycles": "lr_scheduler_num_cycles",
    "train_lr_scheduler_power": "lr_scheduler_power",
    "train_min_timesteps": "min_timestep",
    "train_max_timesteps": "max_timestep",
    "train_snr_gamma": "min_snr_gamma",
    "save_per_steps": "save_every_n_steps",
    "network_resume": "network_weights",
    "save_overwrite": "overwrite",
    "model_v_pred": "v_parameterization",
    "model": "pretrained_model_name_or_path",
    "vae": "vae",
}
_UNSET_BY_ZERO = frozenset(("train_snr_gamma", "save_per_steps", "train_lr_warmup_steps", "train_min_timesteps"))
_LOSSES = {"MSE": "l2", "L1": "l1", "Smooth-L1": "smooth_l1"}
_PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}
_SAVED = {"fp32": "float", "fp16": "fp16", "bf16": "bf16"}
_SCHEDULES = {"cosine_annealing": "cosine"}
_BLOCKS = "network_blocks(BASE = TextEncoder)"
_SIZE = "image_size(height, width)"
# Its ways to train, as objectives.
_OBJECTIVES = {"LoRA": "denoising", "iLECO": "iLECO", "ADDifT": "ADDifT", "Multi-ADDifT": "ADDifT"}
_OF_OBJECTIVE = {
    "original prompt": "original_prompt",
    "target prompt": "target_prompt",
    "diff_target_name": "diff_target_name",
}
_WITHOUT = {
    "lora_trigger_word": "write it into the captions (Dataset tab)",
    "sub_image_num": "pictures are not cut into parts here",
    "train_lr_step_rules": "there is no schedule by rules here",
    "diff_load_1st_pass": "belongs to the mode Difference",
}


def knows(document: Mapping[str, Any]) -> bool:
    return "train_iterations" in document and "network_rank" in document


def translate(document: Mapping[str, Any]) -> Translation:
    translation = Translation()
    for key, name in _NAMES.items():
        value = document.get(key)
        if value in (None, "", "None") or (key in _UNSET_BY_ZERO and is_off(value)):
            continue
        translation.take(key, name, value)
    _network(translation, document)
    _words(translation, document)
    _blocks(translation, document.get(_BLOCKS))
    _objective(translation, document)
    for key, why in _WITHOUT.items():
        if not is_off(document.get(key)):
            translation.leave_out(key, why)
    return translation


def _objective(translation: Translation, document: Mapping[str, Any]) -> None:
    """The way to train; its file keeps the settings of the other ways, too."""
    mode = str(document.get("mode", "LoRA"))
    if mode not in _OBJECTIVES:
        translation.leave_out("mode", f"{mode} is two runs here (docs/other-ways.md)")
        return
    objective = _OBJECTIVES[mode]
    translation.take("mode", "objective", objective)
    own = {key: name for key, name in _OF_OBJECTIVE.items() if name in own_options(objective)}
    for key, name in own.items():
        if document.get(key):
            translation.take(key, name, document[key])
    for name in [name for name in translation.values if means_nothing(name, objective)]:
        del translation.values[name]
        translation.leave_out(translation.keys[name], f"means nothing for {objective}")


def _network(translation: Translation, document: Mapping[str, Any]) -> None:
    kind = str(document.get("network_type", "lierla"))
    translation.take("network_type", "network_args", {"algo": "loha" if kind == "loha" else "lora"})
    if not is_off(document.get("network_conv_rank")) and kind != "lierla":
        for part, name in (("rank", "conv_dim"), ("alpha", "conv_alpha")):
            if not is_off(document.get(f"network_conv_{part}")):
                translation.take(f"network_conv_{part}", name, document[f"network_conv_{part}"])
    element = str(document.get("network_element") or "Full")
    targets = {"CrossAttention": "cross-attention", "SelfAttention": "self-attention"}
    if element in targets:
        translation.take("network_element", "network_targets", targets[element])
    elif element != "Full":
        translation.leave_out("network_element", f"{element} is not there; network_targets has other choices")


def _words(translation: Translation, document: Mapping[str, Any]) -> None:
    schedule = str(document.get("train_lr_scheduler") or "cosine")
    translation.take("train_lr_scheduler", "lr_scheduler", _SCHEDULES.get(schedule, schedule))
    for key, name, known in (
        ("train_model_precision", "mixed_precision", _PRECISIONS),
        ("save_precision", "save_precision", _SAVED),
        ("train_loss_function", "loss_type", _LOSSES),
    ):
        word = str(document.get(key) or "")
        if word in known:
            translation.take(key, name, known[word])
        elif word:
            translation.leave_out(key, f"{word} is not there")
    size = str(document.get(_SIZE) or "").replace(" ", "")
    if size:
        height, _, width = size.partition(",")
        why = "the height stands first there" if width and width != height else None
        translation.take(_SIZE, "resolution", f"{width or height},{height}", why)
    rate = document.get("train_textencoder_learning_rate")
    if not is_off(rate):
        translation.take("train_textencoder_learning_rate", "text_encoder_lr", rate)
    seed = document.get("train_seed")
    if not is_off(seed) and int(seed) >= 0:
        translation.take("train_seed", "seed", seed)
    for key, name in (
        ("train_optimizer_settings", "optimizer_args"),
        ("train_lr_scheduler_settings", "lr_scheduler_args"),
    ):
        text = str(document.get(key) or "").replace(" ", "").replace(";", "\n")
        if text:
            translation.take(key, name, [line for line in text.split("\n") if "=" in line])


def _blocks(translation: Translation, blocks: Any) -> None:
    """The blocks that are trained, as learning rates of 1 and 0."""
    if not isinstance(blocks, list):
        return
    if BASE not in blocks:
        translation.take(_BLOCKS, "network_train_unet_only", True, "without BASE the text encoder is left as it is")
    names = BLOCK_LISTS[Family.SD1][26]
    if set(names[1:]) - set(blocks):
        weights = [1.0 if name in blocks or name == BASE else 0.0 for name in names]
        translation.take(_BLOCKS, "block_lr_weight", weights, "blocks that are not trained have the rate 0")
