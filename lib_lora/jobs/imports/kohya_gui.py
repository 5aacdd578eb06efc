"""Settings of the GUI kohya_ss (JSON).

Most of its names are sd-scripts'; 0 and "" mean that something is not set, and what a network type has no use for
stands there all the same. Source: bmaltais/kohya_ss 45088f0, kohya_gui/lora_gui.py (``train_model``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from lib_lora.jobs.imports.sd_scripts import flags
from lib_lora.jobs.imports.taken import Translation, is_off

# By the GUI's name of a network: sd-scripts' module and, of LyCORIS, the algorithm.
_KINDS = {
    "Standard": ("networks.lora", None),
    "Kohya LoCon": ("networks.lora", None),
    "Kohya DyLoRA": ("networks.dylora", None),
    "Kohya LoHa": ("networks.loha", None),
    "Kohya LoKr": ("networks.lokr", None),
    "LoCon": ("lycoris.kohya", "locon"),
    "LyCORIS/LoCon": ("lycoris.kohya", "locon"),
    "LyCORIS/LoHa": ("lycoris.kohya", "loha"),
    "LyCORIS/LoKr": ("lycoris.kohya", "lokr"),
    "LyCORIS/iA3": ("lycoris.kohya", "ia3"),
    "LyCORIS/DyLoRA": ("lycoris.kohya", "dylora"),
    "LyCORIS/GLoRA": ("lycoris.kohya", "glora"),
    "LyCORIS/BOFT": ("lycoris.kohya", "boft"),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", "diag-oft"),
    "LyCORIS/Native Fine-Tuning": ("lycoris.kohya", "full"),
}
_BLOCKS = "down_lr_weight mid_lr_weight up_lr_weight block_lr_zero_threshold"
_DIMS = "block_dims block_alphas conv_block_dims conv_block_alphas rank_dropout module_dropout"
_LYCORIS = "conv_dim conv_alpha rank_dropout module_dropout rank_dropout_scale use_tucker train_norm"
_WEIGHTED = f"{_LYCORIS} dora_wd use_scalar bypass_mode"
# Which of the network's settings a type has a use for.
_USED = {
    None: f"{_BLOCKS} {_DIMS}",
    "locon": _WEIGHTED,
    "loha": _WEIGHTED,
    "lokr": f"{_WEIGHTED} factor use_cp decompose_both",
    "ia3": "train_on_input",
    "dylora": f"{_LYCORIS} unit",
    "glora": _LYCORIS,
    "boft": _LYCORIS,
    "diag-oft": f"{_LYCORIS} constrain rescaled",
    "full": "rank_dropout module_dropout rank_dropout_scale train_norm",
}
_NETWORK = frozenset(word for words in _USED.values() for word in words.split())
_THERE = {"constrain": "constraint", "use_cp": "use_tucker"}
_RENAMED = {"max_resolution": "resolution", "optimizer": "optimizer_type", "lora_network_weights": "network_weights"}
_RENAMED |= {"sdxl_no_half_vae": "no_half_vae"}
# Where 0 means "not set" there and something else here.
_UNSET_BY_ZERO = frozenset(
    {
        "min_snr_gamma", "scale_weight_norms", "ip_noise_gamma", "noise_offset", "adaptive_noise_scale",
        "multires_noise_iterations", "save_every_n_epochs", "save_every_n_steps", "save_last_n_epochs",
        "save_last_n_steps", "save_last_n_epochs_state", "save_last_n_steps_state", "seed", "min_timestep",
        "max_timestep", "v_pred_like_loss", "vae_batch_size", "max_train_epochs", "max_train_steps",
        "sample_every_n_epochs", "sample_every_n_steps", "stop_text_encoder_training", "unet_lr", "text_encoder_lr",
        "text_encoder_lr_1", "text_encoder_lr_2", "clip_skip", "learning_rate_te", "max_grad_norm", "lr_warmup_steps",
        "loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio",
    }
)  # fmt: skip
# How the GUI starts processes, other models' settings, and what it shows.
_ITS_OWN = re.compile(
    r"(flux|sd3|hunyuan|anima|lumina|chroma|t5|clip_[lg]|wandb|huggingface|log_|logging|metadata_|gpu_ids|num_|main_|"
    r"multi_gpu|dynamo|extra_accelerate|model_list|save_as_bool|use_wandb|async_upload|lr_warmup$|LyCORIS_preset|"
    r"LoRA_type|additional_parameters|noise_offset_type|epoch$|no_token_padding|stop_text|sdxl$|sdxl_cache|v2$|weighting_scheme|"
    r"ae$|apply_t5|discrete_flow|guidance_scale|logit_|mode_scale|model_prediction|timestep_sampling|split_|"
    r"learning_rate_te|train_blocks|img_attn|txt_attn|single_|double_|blocks_to_swap|mem_eff_save)"
)


def knows(document: Mapping[str, Any]) -> bool:
    return "LoRA_type" in document or ("max_resolution" in document and "lr_warmup" in document)


def translate(document: Mapping[str, Any]) -> Translation:
    translation = Translation()
    _network(translation, document)
    _rates(translation, document)
    _noise(translation, document)
    for key, value in document.items():
        if key in translation.keys.values() or key in _NETWORK or _ITS_OWN.match(key):
            continue
        name = _RENAMED.get(key, key)
        if value == "" or (name in _UNSET_BY_ZERO and is_off(value)):
            continue
        translation.take(key, name, value)
    _length(translation, document)
    _one_by_one(translation, document)
    return translation


def _network(translation: Translation, document: Mapping[str, Any]) -> None:
    kind = str(document.get("LoRA_type", "Standard"))
    if kind not in _KINDS:
        return translation.leave_out("LoRA_type", f"the network {kind} is not there")
    module, algorithm = _KINDS[kind]
    translation.take("LoRA_type", "network_module", module)
    used = _USED[algorithm].split() + (["conv_dim", "conv_alpha"] if kind == "Kohya LoCon" else [])
    used += ["unit"] if kind == "Kohya DyLoRA" else []
    given = {_THERE.get(name, name): document[name] for name in used if not is_off(document.get(name))}
    arguments = {"algo": algorithm, **given} if algorithm else given
    preset = document.get("LyCORIS_preset")
    if algorithm and preset:
        arguments["preset"] = preset
    if arguments:
        translation.take("LoRA_type", "network_args", arguments)


def _rates(translation: Translation, document: Mapping[str, Any]) -> None:
    """A rate of 0 leaves its part untrained where the other one is given."""
    unet, text = (is_off(document.get(name)) for name in ("unet_lr", "text_encoder_lr"))
    if text and not unet:
        translation.take("text_encoder_lr", "network_train_unet_only", True, "0 there leaves the text encoder as it is")
    if unet and not text:
        translation.take("unet_lr", "network_train_text_encoder_only", True, "0 there leaves the UNet as it is")


def _noise(translation: Translation, document: Mapping[str, Any]) -> None:
    """Of two kinds of noise the GUI uses the chosen one; the other's numbers stay in the file."""
    original = document.get("noise_offset_type", "Original") == "Original"
    unused = ("multires_noise_iterations", "multires_noise_discount") if original else (
        "noise_offset", "adaptive_noise_scale", "noise_offset_random_strength"
    )  # fmt: skip
    for name in unused:
        if name in document:
            translation.keys[name] = name  # seen, and not taken


def _length(translation: Translation, document: Mapping[str, Any]) -> None:
    epochs, steps = document.get("max_train_epochs"), document.get("max_train_steps")
    if is_off(epochs) and is_off(steps) and not is_off(document.get("epoch")):
        translation.take("epoch", "max_train_epochs", document["epoch"])
    percent = document.get("lr_warmup")
    if not is_off(percent) and is_off(document.get("lr_warmup_steps")):
        share = float(percent) / 100
        translation.take("lr_warmup", "lr_warmup_steps", share, f"{percent} % of the steps is {share:g} here")


def _one_by_one(translation: Translation, document: Mapping[str, Any]) -> None:
    values = translation.values
    for name in ("optimizer_args", "lr_scheduler_args"):
        if isinstance(values.get(name), str):
            values[name] = shlex.split(values[name])
    kind = str(values.pop("xformers", "")).lower()
    if kind in ("xformers", "sdpa", "true"):
        values["sdpa" if kind == "sdpa" else "xformers"] = True
    stop = document.get("stop_text_encoder_training")
    if not is_off(stop):
        translation.leave_out("stop_text_encoder_training", "a text encoder is trained to the end here, or not at all")
    if values.pop("dataset_config", ""):
        translation.leave_out("dataset_config", "is another file: import that, too")
    if values.get("sample_prompts"):
        translation.leave_out("sample_prompts", "write the prompts under Samples")
        del values["sample_prompts"]
    extra = flags(str(document.get("additional_parameters") or ""))
    for name, value in extra.items():
        translation.take(f"additional_parameters --{name}", name, value)
