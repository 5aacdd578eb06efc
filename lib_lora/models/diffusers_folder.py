"""Folders in diffusers' layout: which files hold the weights, and what the configurations say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError

INDEX = "model_index.json"
_CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
_ALLOWED = "a Stable Diffusion 1, 2 or XL folder in diffusers' layout"
# What from_pretrained looks for, in its order; transformers' encoders have the later names.
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_EXTENSIONS = ("safetensors", "bin")
# Which one is taken of several: what from_pretrained takes without being told, then the smaller one.
_VARIANTS = ("", "fp16", "bf16")


@dataclass(frozen=True)
class Weights:
    """The files of one component.

    Attributes:
        files: one, or the shards of which an index knows.
        keys: which file holds a key, by the index; None for a single file.
        variant: "" for the plain one, "fp16", ...
    """

    files: tuple[Path, ...]
    keys: Mapping[str, str] | None
    variant: str


@dataclass(frozen=True)
class FolderFacts:
    """What a folder's configurations say and tensors cannot.

    Attributes:
        family: SD2 is known by the activation of its text encoder, OpenCLIP's "gelu"; OpenAI's is "quick_gelu".
        heads: attention heads of the UNet, one number or one per level.
        scale_factor: of the VAE's latents.
        scheduler: scheduler_config.json, {} without one.
        text_folders: of the text encoders, each with its config.json.
        vocabulary_folder: with vocab.json and merges.txt, where there is one.
    """

    family: Family
    heads: int | list[int]
    scale_factor: float
    scheduler: Mapping[str, Any]
    text_folders: tuple[Path, ...]
    vocabulary_folder: Path | None


def is_diffusers_folder(path: Path) -> bool:
    return (path / INDEX).is_file()


def components(folder: Path) -> tuple[str, ...]:
    """The names of the parts that a checkpoint is made of, in the order UNet, VAE, text encoders.

    Raises:
        StudioError: the folder is of another family, or a part is missing; the message says which.
    """
    index = read_json(folder / INDEX)
    kind = index.get("_class_name", "an unknown pipeline")
    present = {name: value[1] for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    if present.get("text_encoder") is None and present.get("text_encoder_2") is not None:
        raise StudioError("this is the refiner of SDXL, which is not trained", file=folder, came=kind, allowed=_ALLOWED)
    wanted = [name for name in _CLASSES if name != "text_encoder_2" or present.get(name) is not None]
    wrong = {name: present.get(name) for name in wanted if present.get(name) != _CLASSES[name]}
    if wrong or "Upscale" in kind:
        raise StudioError(
            f"this is a diffusers folder of another family ({kind}; {_list(wrong)})", file=folder, allowed=_ALLOWED
        )
    for name in wanted:
        if not (folder / name).is_dir():
            raise StudioError(f"the part {name!r} that {INDEX} names is missing", file=folder, allowed=_ALLOWED)
    return tuple(wanted)


def _list(wrong: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} is {value or 'missing'}" for name, value in wrong.items()) or "an upscaler"


def find_weights(folder: Path) -> Weights:
    """The weights of one component's folder: plain before fp16 before other variants, .safetensors before .bin.

    Raises:
        StudioError: there are none, or an index names files that are missing or outside the folder.
    """
    found = _found(folder)
    if not found:
        raise StudioError(
            "no weights in this folder", file=folder, allowed="diffusion_pytorch_model or model, .safetensors or .bin"
        )
    variant, extension, stem = min(found, key=_preference)
    name = found[variant, extension, stem]
    if not name.endswith(".json"):
        return Weights((folder / name,), None, variant)
    keys = read_json(folder / name).get("weight_map")
    if not isinstance(keys, dict) or not keys or not all(isinstance(value, str) for value in keys.values()):
        raise StudioError("the list of shards is damaged", file=folder / name, allowed="a weight_map")
    files = tuple(_shard(folder, file) for file in sorted(set(keys.values())))
    return Weights(files, keys, variant)


def _found(folder: Path) -> dict[tuple[str, str, str], str]:
    """(variant, extension, stem) -> the name of a file of weights or of its index."""
    found = {}
    names = sorted(item.name for item in folder.iterdir() if item.is_file())
    for name in names:
        for stem in _STEMS:
            for extension in _EXTENSIONS:
                single = re.fullmatch(rf"{stem}(?:\.([\w-]+?))?\.{extension}", name)
                index = re.fullmatch(rf"{stem}\.{extension}\.index(?:\.([\w-]+))?\.json", name)
                match = index or single
                if match and not re.search(r"-\d{5}-of-\d{5}", name):
                    found[match.group(1) or "", extension, stem] = name
    return found


def _preference(choice: tuple[str, str, str]) -> tuple[Any, ...]:
    variant, extension, stem = choice
    rank = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)
    return rank, variant, _EXTENSIONS.index(extension), _STEMS.index(stem)


def _shard(folder: Path, name: str) -> Path:
    if Path(name).name != name or "\\" in name or not (folder / name).is_file():
        raise StudioError("a shard that the index names is missing", file=folder, came=name, allowed="a file in it")
    return folder / name


def read_facts(folder: Path, parts: tuple[str, ...]) -> FolderFacts:
    """What the configurations of a whole pipeline say.

    Raises:
        StudioError: one is missing or damaged, or asks for a noise schedule that is not Stable Diffusion's.
    """
    texts = tuple(folder / name for name in parts if name.startswith("text_encoder"))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    schedule = read_json(scheduler) if scheduler.is_file() else {}
    if schedule.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise StudioError(
            "a noise schedule that cannot be trained",
            field="beta_schedule",
            file=scheduler,
            came=schedule["beta_schedule"],
            allowed="scaled_linear",
        )
    unet = read_json(folder / "unet" / "config.json")
    tokenizer = folder / "tokenizer"
    return FolderFacts(
        family=_family(texts),
        # In this class the argument of this name is the number of heads (diffusers #2011).
        heads=unet.get("num_attention_heads") or unet.get("attention_head_dim", 8),
        scale_factor=float(read_json(folder / "vae" / "config.json").get("scaling_factor", 0.18215)),
        scheduler=schedule,
        text_folders=texts,
        vocabulary_folder=tokenizer if (tokenizer / "vocab.json").is_file() else None,
    )


def _family(texts: tuple[Path, ...]) -> Family:
    if len(texts) == 2:
        return Family.SDXL
    config = read_json(texts[0] / "config.json")
    return Family.SD2 if config.get("hidden_act", "quick_gelu") == "gelu" else Family.SD1


def read_json(path: Path) -> dict[str, Any]:
    """A JSON table.

    Raises:
        StudioError: it is missing or none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudioError("missing", file=path, allowed=_ALLOWED) from None
    except (OSError, ValueError, RecursionError) as error:
        raise StudioError("not a configuration", file=path, allowed="JSON text") from error
    if not isinstance(value, dict):
        raise StudioError("not a configuration", file=path, allowed="a JSON table")
    return value
