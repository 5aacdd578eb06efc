"""Which LoRAs go into a merge or a bake, and how strongly: from a prompt, or from files and strengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import looks_like_safetensors, read_header
from lib_lora.text.extra_networks import split_tags
from lib_lora.weights.blocks.elements import BUILT_IN_ELEMENTS
from lib_lora.weights.blocks.presets import BUILT_IN
from lib_lora.weights.blocks.words import WeightedTag, read_tag, tag_name
from lib_lora.weights.delta import LoraWeights, ModuleDelta
from lib_lora.weights.layers import canonical_key, is_text_key
from lib_lora.weights.lora_folder import lora_paths
from lib_lora.weights.modules import read_whole
from lib_lora.weights.webui_names import is_found, published_layers

_IN_FILES = "te, unet, dyn, lbw, x, lbwe"


@dataclass(frozen=True)
class Ingredient:
    """A LoRA and how strongly it goes in."""

    lora: LoraWeights
    tag: WeightedTag

    def strength(self, key: str) -> float:
        """Of one module, by its name in files."""
        own = self.tag.te if is_text_key(key) else self.tag.unet
        return own * self.tag.ratio(key)


@dataclass(frozen=True)
class Part:
    """One LoRA's module of a layer, with its strength. A layer's parts are in the order of the recipe."""

    delta: ModuleDelta
    strength: float


def from_prompt(
    prompt: str,
    lora_dir: Path | None,
    *,
    presets: Mapping[str, str] = BUILT_IN,
    elements: Mapping[str, str] = BUILT_IN_ELEMENTS,
    reading: str = "webui",
) -> list[Ingredient]:
    """The LoRAs of a prompt, in its order; the prompt's other words do not matter.

    Args:
        prompt: ``<lora:name:0.8>``, ``<lora:name:te=0.8:unet=0.5:lbw=OUTD>``; ``blocks.words`` has the language.
        lora_dir: where names are looked for, in all its folders.

    Raises:
        StudioError: no LoRA, one that is not found, or something that only a prompt can do (``start=``).
    """
    ingredients = []
    for items in _tags(prompt):
        lora = read_whole(find_lora(tag_name(items), lora_dir), reading)
        tag = read_tag(items, family=lora.family, presets=presets, elements=elements)
        if tag.schedule is not None:
            raise StudioError(
                "steps cannot be written into a file", field="prompt", came=tag.schedule.text, allowed=_IN_FILES
            )
        ingredients.append(Ingredient(lora, tag))
    _refuse_twice(ingredients)
    return ingredients


def lora_files(prompt: str, lora_dir: Path | None) -> list[Path]:
    """The files that a prompt means; none of them is opened, but to look for a name in its metadata."""
    return [find_lora(tag_name(items), lora_dir) for items in _tags(prompt)]


def _tags(prompt: str) -> list[list[str]]:
    _, tags = split_tags(prompt)
    if not tags:
        raise StudioError("names no LoRA", field="prompt", came=prompt, allowed="<lora:name:strength> ...")
    return tags


def from_files(files: Sequence[Path], ratios: Sequence[float], reading: str = "webui") -> list[Ingredient]:
    """Files with a strength each; no strengths at all are 1 each.

    Raises:
        StudioError: another number of strengths than of files, or a file that cannot be read.
    """
    if ratios and len(ratios) != len(files):
        raise StudioError(
            "must be as many as models", field="ratios", came=len(ratios), allowed=f"{len(files)} numbers, or none"
        )
    strengths = ratios or (1.0,) * len(files)
    loras = [read_whole(path, reading) for path in files]
    ingredients = [Ingredient(lora, WeightedTag(lora.name, value, value)) for lora, value in zip(loras, strengths)]
    _refuse_twice(ingredients)
    return ingredients


def _refuse_twice(ingredients: Sequence[Ingredient]) -> None:
    paths = [item.lora.path.resolve() for item in ingredients]
    for path in paths:
        if paths.count(path) > 1:
            raise StudioError("is named twice", file=path, allowed="each LoRA once, with the strength it is to have")


def find_lora(name: str, lora_dir: Path | None) -> Path:
    """The file that a prompt means by a name: by its path with its ending first, then by the file's name with or
    without its folder, then by the one in its metadata.

    Raises:
        StudioError: there is none, or there are several.
    """
    if lora_dir is None:
        raise StudioError("must be given, for the prompt names LoRAs", field="lora_dir", allowed="the folder of LoRAs")
    files = lora_paths(lora_dir)
    found = [path for path in files if name == path.relative_to(lora_dir).as_posix()]
    found = found or [path for path in files if name in _names(path.relative_to(lora_dir))]
    found = found or [path for path in files if _alias(path, path.stat().st_mtime_ns) == name]
    if len(found) == 1:
        return found[0]
    if not found:
        raise StudioError("no LoRA has this name", field="prompt", came=name, file=lora_dir, allowed="a file's name")
    paths = [path.relative_to(lora_dir).as_posix() for path in found]
    raise StudioError(f"{len(found)} LoRAs have this name", field="prompt", came=name, file=lora_dir, allowed=paths)


def _names(path: PurePath) -> tuple[str, ...]:
    """What people call a file: by its own name, with its folder, with its extension."""
    return path.stem, path.name, path.with_suffix("").as_posix(), path.as_posix()


@lru_cache(maxsize=4096)
def _alias(path: Path, changed_ns: int) -> str | None:
    """The name in a file's metadata. A page asks again and again, of all files where a name is nobody's yet.

    Args:
        changed_ns: when the file was changed last.
    """
    try:
        return read_header(path).metadata.get("ss_output_name") if looks_like_safetensors(path) else None
    except StudioError:
        return None  # a broken file that nobody has asked for


def common_family(ingredients: Sequence[Ingredient], base: Family | None = None) -> Family | None:
    """The one family of all, as far as it is known.

    Raises:
        StudioError: they are of several.
    """
    known: dict[Family, str] = {} if base is None else {base: "the checkpoint"}
    for item in ingredients:
        family = item.lora.family
        if family is None:
            continue
        known.setdefault(family, item.lora.name)
        if len(known) > 1:
            names = " and ".join(f"{name} for {own.value}" for own, name in known.items())
            raise StudioError(f"not of one family: {names}", file=item.lora.path)
    return next(iter(known), None)


def layer_parts(ingredients: Sequence[Ingredient], family: Family | None) -> dict[str, list[Part]]:
    """What each layer is changed by, whatever names the files have for it; parts of strength 0 are left out.

    Raises:
        StudioError: two modules of one file mean the same layer.
    """
    layers: dict[str, list[Part]] = {}
    for item in ingredients:
        seen: dict[str, str] = {}
        for key, delta in item.lora.modules.items():
            layer = canonical_key(key, family)
            if layer in seen:
                raise StudioError(f"{seen[layer]} and {key} mean the same layer", file=item.lora.path)
            seen[layer] = key
            strength = item.strength(layer)
            if strength:
                layers.setdefault(layer, []).append(Part(delta.cut(item.tag.dyn), strength))
    return layers


def recipe_notes(ingredients: Sequence[Ingredient], family: Family | None) -> Iterator[str]:
    """All that a person should know of the LoRAs before they go in."""
    yield from ignored_notes(ingredients, family)
    yield from reading_notes(ingredients)
    for item in ingredients:
        yield from item.tag.hints


def ignored_notes(ingredients: Sequence[Ingredient], family: Family | None) -> Iterator[str]:
    """A sentence per LoRA of which something has no effect in the WebUI."""
    for item in ingredients:
        found = {suffix for delta in item.lora.modules.values() for suffix in delta.ignored}
        if found:
            yield f"{item.lora.name}: {', '.join(sorted(found))} have no effect in the WebUI, and are left out"
        if item.lora.renamed:
            yield f"{item.lora.name}: has names of diffusers, none of which the WebUI finds; here it has its effect"
        layers = published_layers(family) if family is not None else set()
        named = {key for key in item.lora.modules if canonical_key(key, family) in layers}
        lost = [key for key in named if not is_found(key, family, layers)]
        if lost:
            yield (
                f"{item.lora.name}: {len(lost)} modules have names that the WebUI does not find, such as {min(lost)}; "
                "here they have their effect"
            )


def reading_notes(ingredients: Sequence[Ingredient]) -> Iterator[str]:
    """A sentence per LoRA that the WebUI applies in another way than it was trained."""
    for item in ingredients:
        if any(delta.reading == "webui" and delta.is_normed_by_rows for delta in item.lora.modules.values()):
            yield (
                f"{item.lora.name}: its DoRA was trained with norms of the output's rows; WebUI 1.10.1 takes those of "
                "the input's columns, and so does this. The reading 'trained' does what was trained"
            )
