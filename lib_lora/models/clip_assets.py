"""Where a text encoder's vocabulary and configuration come from."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.models.config_yaml import OPENAI_CLIP

_VOCABULARY = ("vocab.json", "merges.txt")


def vocabulary_folder(
    yaml_folder: Path | None, host_folder: Path | None = None, *, local_only: bool = False
) -> Path:
    """The folder that holds ``vocab.json`` and ``merges.txt``.

    Looked for in the host's folder, the folder beside the checkpoint, the Hugging Face cache and the hub, in
    that order.

    Args:
        local_only: the hub is not asked, which takes half a minute to say that there is no network.

    Raises:
        StudioError: it is nowhere; the message says where it was looked for.
    """
    for folder in (host_folder, yaml_folder):
        if folder is not None and all((folder / name).is_file() for name in _VOCABULARY):
            return folder
    if yaml_folder is not None:
        raise StudioError("no vocabulary in this folder", file=yaml_folder, allowed=" and ".join(_VOCABULARY))
    return _from_hub(local_only)


@functools.cache
def token_counter(*, local_only: bool = False) -> Callable[[str], int]:
    """Counts the tokens of a text as Stable Diffusion's first text encoder does. ``local_only``: of
    ``vocabulary_folder``.

    Raises:
        StudioError: CLIP's vocabulary is neither on this machine nor to be had.
    """
    from lib_lora.text.tokenizer import Tokenizer

    return Tokenizer.from_folder(vocabulary_folder(None, local_only=local_only)).count


def _from_hub(local_only: bool) -> Path:
    from huggingface_hub import hf_hub_download

    for in_cache in (True,) if local_only else (True, False):
        try:
            files = [hf_hub_download(OPENAI_CLIP, name, local_files_only=in_cache) for name in _VOCABULARY]
            return Path(files[0]).parent
        except Exception as error:  # the hub raises a family of errors that differs between its versions
            problem = error
    raise StudioError(
        f"CLIP's vocabulary is neither in the Hugging Face cache nor to be had from the hub ({problem})",
        file=OPENAI_CLIP,
        allowed="a network connection once, or a yaml beside the checkpoint whose cond_stage_config.params.version "
        "names a folder with vocab.json and merges.txt",
    ) from problem


def text_config(folder: Path | None, shapes: dict[str, tuple[int, ...]], *, open_clip: bool = False) -> dict[str, Any]:
    """Arguments of transformers' ``CLIPTextConfig``.

    Sizes are the tensors' own (keys ``text_model....``). Heads and activation, which shapes cannot tell, come
    from the folder's config.json; without one a head has 64 channels, as in OpenAI's ViT-L/14 and OpenCLIP's
    ViT-H/14 and ViT-bigG/14, and the activation is OpenAI's quick GELU or OpenCLIP's GELU.
    """
    hidden = shapes["text_model.embeddings.token_embedding.weight"][1]
    config: dict[str, Any] = {
        "num_attention_heads": max(1, hidden // 64),
        "hidden_act": "gelu" if open_clip else "quick_gelu",
    }
    path = None if folder is None else folder / "config.json"
    if path is not None and path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StudioError(f"not a configuration ({error})", file=path) from error
        stored = stored.get("text_config", stored)
        for name in ("num_attention_heads", "hidden_act", "layer_norm_eps"):
            if name in stored:
                config[name] = stored[name]
    config["vocab_size"] = shapes["text_model.embeddings.token_embedding.weight"][0]
    config["max_position_embeddings"] = shapes["text_model.embeddings.position_embedding.weight"][0]
    config["hidden_size"] = hidden
    config["projection_dim"] = shapes.get("text_projection.weight", (hidden,))[0]
    config["intermediate_size"] = shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0]
    layers = {int(key.split(".")[3]) for key in shapes if key.startswith("text_model.encoder.layers.")}
    config["num_hidden_layers"] = max(layers) + 1
    # 2 makes transformers take the text's end where the highest id stands, which is OpenAI's and open_clip's rule.
    config["bos_token_id"], config["eos_token_id"] = 0, 2
    return config
