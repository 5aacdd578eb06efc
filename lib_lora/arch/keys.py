"""Names of a LoRA's modules: kohya's (in files) and the modules' own (diffusers' UNet, transformers' CLIP).

``down_blocks.0.attentions.0.proj_in`` <-> ``lora_unet_down_blocks_0_attentions_0_proj_in``
``text_model.encoder.layers.0.mlp.fc1`` <-> ``lora_te_text_model_encoder_layers_0_mlp_fc1``

SDXL's UNet stands in files under its LDM names, ``lora_unet_input_blocks_4_1_proj_in``; some tools write diffusers'.

Source: kohya-ss/sd-scripts 48d368f, networks/lora.py, ``LoRANetwork.create_modules``.
"""

from __future__ import annotations

from lib_lora.arch.ldm import SDXL_RESNETS, sdxl_module_name, unet_key

UNET_PREFIX = "lora_unet_"
TEXT_PREFIX = "lora_te_"
TEXT_ROOT = "text_model."

# Parts of module names that hold an underscore themselves.
_ATOMS = frozenset(
    (
        "down_blocks",
        "mid_block",
        "up_blocks",
        "transformer_blocks",
        "proj_in",
        "proj_out",
        "to_q",
        "to_k",
        "to_v",
        "to_out",
        "time_emb_proj",
        "conv_shortcut",
        "conv_in",
        "conv_out",
        "conv_norm_out",
        "time_embedding",
        "add_embedding",
        "linear_1",
        "linear_2",
        "text_model",
        "self_attn",
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
        "layer_norm1",
        "layer_norm2",
        "final_layer_norm",
        "token_embedding",
        "position_embedding",
        "text_projection",
        # SDXL's UNet
        "input_blocks",
        "middle_block",
        "output_blocks",
        "in_layers",
        "out_layers",
        "emb_layers",
        "skip_connection",
        "time_embed",
        "label_emb",
    )
)
_LONGEST = max(atom.count("_") + 1 for atom in _ATOMS)


def text_prefix(index: int, count: int) -> str:
    """The prefix of text encoder ``index`` (from 0) of ``count``: ``lora_te_``, or ``lora_te1_`` and ``lora_te2_``."""
    return TEXT_PREFIX if count == 1 else f"lora_te{index + 1}_"


def text_module_name(name: str) -> str:
    """A module's name inside CLIPTextModel as files spell it: transformers 5 dropped the level ``text_model.``."""
    return name if name.startswith((TEXT_ROOT, "text_projection")) else TEXT_ROOT + name


def kohya_key(prefix: str, module_name: str) -> str:
    """The module's name in files."""
    return prefix + module_name.replace(".", "_")


def unet_file_name(module_name: str, is_sdxl: bool) -> str:
    """A UNet module's name as files spell it."""
    return sdxl_module_name(module_name) if is_sdxl else module_name


def split_key(key: str) -> tuple[str, str]:
    """``lora_unet_x_y.lora_up.weight`` -> (``lora_unet_x_y``, ``lora_up.weight``); the second may be empty."""
    module, _, suffix = key.partition(".")
    return module, suffix


def split_prefix(module_key: str) -> tuple[str, str]:
    """``lora_unet_mid_block_x`` -> (``lora_unet_``, ``mid_block_x``).

    Raises:
        KeyError: no kohya name.
    """
    for prefix in (UNET_PREFIX, TEXT_PREFIX, "lora_te1_", "lora_te2_"):
        if module_key.startswith(prefix):
            return prefix, module_key[len(prefix) :]
    raise KeyError(module_key)


def module_name(module_key: str) -> str:
    """The module's own name, dots and all, from its name in files, without looking at a model.

    Raises:
        KeyError: no kohya name.
    """
    words = split_prefix(module_key)[1].split("_")
    parts, place = [], 0
    while place < len(words):
        # A longer atom wins: "text_model" before "text".
        for length in range(_LONGEST, 0, -1):
            atom = "_".join(words[place : place + length])
            if length == 1 or atom in _ATOMS:
                parts.append(atom)
                place += length
                break
    return _own_name(".".join(parts))


def _own_name(name: str) -> str:
    """diffusers' name where a file has LDM's."""
    try:
        return unet_key(f"{name}.", SDXL_RESNETS)[:-1]
    except KeyError:
        return name
