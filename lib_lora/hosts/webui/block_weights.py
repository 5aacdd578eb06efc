"""Block weights in the WebUI's prompts: ``<lora:name:1:lbw=OUTD:start=0.3>``.

The WebUI scales what each module of a LoRA changes by the module's multiplier: the weight's change, the bias's and
DoRA's alike. Here that is multiplied by the ratio that the tag gives the module. What a tag asks for lives in the
strengths that the WebUI keeps for each LoRA (``Strength``), and comes and goes with them:

- a layer is applied anew when the strengths are not those that it has, as the WebUI does without block weights;
- the text is encoded anew when they are not those that it was encoded with, though the prompt is the same;
- a schedule changes the UNet's strength between two steps; the text is encoded once, before the first step.

Four methods of the WebUI are replaced for that, by its own ``modules.patches``. Its other users of LoRAs see plain
numbers and unchanged names. Written against v1.10.1 (commit 82a973c0); Forge and reForge apply LoRAs another way and
are left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lib_lora.base.errors import StudioError
from lib_lora.hosts.webui import environment
from lib_lora.hosts.webui.loras import networks_module

if TYPE_CHECKING:
    from lib_lora.arch.family import Family
    from lib_lora.weights.blocks.words import WeightedTag

INFOTEXT, HIRES_INFOTEXT = "Block weights", "Hires block weights"
SAYS = "LoRA Studio: "  # before what people are told
_OTHER = "LoRA Block Weight"  # the title of hako-mikan's script


class Strength(float):
    """A LoRA's strength, and the tags with the block weights that go with it: several where it stands several times.

    It equals another strength if these are the same as well: by that the WebUI tells which layers to apply anew.

    Args:
        parts: of each tag its strength now, and the tag; together they are the LoRA's.
    """

    def __new__(cls, parts: Iterable[tuple[float, WeightedTag]]) -> Strength:
        parts = tuple(parts)
        made = super().__new__(cls, sum(strength for strength, _ in parts))
        made.parts = parts
        made.signature = tuple((strength, tag.signature) for strength, tag in parts)
        return made

    def of(self, key: str) -> float:
        """The strength of a module, by its name in the file."""
        return sum(strength * tag.ratio(key) for strength, tag in self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strength) and self.signature == other.signature

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = float.__hash__

    def __getnewargs__(self) -> tuple[tuple[tuple[float, WeightedTag], ...]]:
        """To be copied: other extensions copy what they find."""
        return (self.parts,)


def install() -> bool:
    """Let prompts know block weights from now on; twice is once. False where the WebUI has no LoRAs of this kind."""
    from modules import patches

    replacements = list(_replacements())
    for owner, name, around in replacements:
        if patches.original(__name__, owner, name) is None:
            patches.patch(__name__, owner, name, around(getattr(owner, name)))
    return bool(replacements)


def uninstall() -> None:
    """Leave the WebUI's methods as they were."""
    from modules import patches

    for owner, name, _ in _replacements():
        if patches.original(__name__, owner, name) is not None:
            patches.undo(__name__, owner, name)


def follow_schedules(params: Any) -> None:
    """For the WebUI's callback ``on_cfg_denoiser``: the strengths of the coming evaluation of the UNet.

    The steps are those of the pass at hand: a hires pass has its own, and img2img those that it takes.
    """
    networks = networks_module()
    for network in networks.loaded_networks if networks else ():
        strength = getattr(network, "unet_multiplier", None)
        if isinstance(strength, Strength) and any(tag.schedule is not None for _, tag in strength.parts):
            moment = _step_and_steps(params)
            wanted = Strength((tag.unet * tag.at(*moment)[1], tag) for _, tag in strength.parts)
            if wanted != strength:
                network.unet_multiplier = wanted


def _step_and_steps(params: Any) -> tuple[int, int]:
    """The step at hand, from 0, and their number, by the calls so far: some samplers evaluate the UNet twice a step."""
    steps, denoiser = max(1, params.total_sampling_steps), params.denoiser
    per_step = max(1, (denoiser.total_steps or steps) // steps)
    return min(denoiser.step // per_step, steps - 1), steps


# The WebUI's methods, and what stands around them.


def _replacements() -> Iterator[tuple[type, str, Callable[[Any], Any]]]:
    networks = networks_module()
    if networks is None or not hasattr(networks, "module_types"):  # switched off, or Forge's
        return
    import extra_networks_lora
    import network
    from modules import processing

    yield extra_networks_lora.ExtraNetworkLora, "activate", _around_activate
    yield network.NetworkModule, "multiplier", _around_multiplier
    yield network.NetworkModule, "finalize_updown", _around_finalize
    yield processing.StableDiffusionProcessing, "cached_params", _around_cached_params


def _around_activate(activate: Any) -> Any:
    def activate_weighted(self: Any, p: Any, params_list: list[Any]) -> None:
        """Read the block weights in the tags, and leave to the WebUI what it understands of them."""
        before = [each for network in networks_module().loaded_networks for each in _strengths(network)]
        tags = _read(params_list, p)
        activate(self, p, list(_plain(params_list, tags)))
        _set_strengths(tags, before)
        _tell(p, tags)

    return activate_weighted


def _around_multiplier(multiplier: Any) -> Any:
    def multiplier_weighted(self: Any) -> float:
        strength = multiplier(self)
        if not isinstance(strength, Strength):
            return strength
        return strength.of(self.network_key.partition(".")[0])

    return multiplier_weighted


def _around_finalize(finalize: Any) -> Any:
    def finalize_exactly(self: Any, updown: Any, orig_weight: Any, *args: Any, **kwargs: Any) -> Any:
        """At 0 nothing at all: a change of another precision would round the weight, and 0 times infinity is none."""
        change, bias_change = finalize(self, updown, orig_weight, *args, **kwargs)
        is_weighted = isinstance(self.network.unet_multiplier, Strength)
        if is_weighted and self.multiplier() == 0:
            return orig_weight.new_zeros(change.shape), None
        return change, bias_change

    return finalize_exactly


def _around_cached_params(cached_params: Any) -> Any:
    def cached_params_and_strengths(self: Any, *args: Any, **kwargs: Any) -> tuple:
        """By these the WebUI sees whether the text must be encoded anew."""
        strengths = [each for network in networks_module().loaded_networks for each in _strengths(network)]
        return *cached_params(self, *args, **kwargs), strengths

    return cached_params_and_strengths


# Tags and strengths


def _read(params_list: Sequence[Any], p: Any) -> dict[str, list[WeightedTag]]:
    """The tags of each LoRA of which one at least has words that the WebUI does not know, by its name."""
    names = dict.fromkeys(params.positional[0] for params in params_list if _has_words(params))
    if names and _other_is_there(p):
        left = "block weights in prompts are left to it, and count only if it is switched on"
        _comment(p, f"the extension {_OTHER} is installed: {left}")
        return {}
    return {name: [_read_tag(params.items, p) for params in params_list if _name(params) == name] for name in names}


def _name(params: Any) -> str | None:
    return params.positional[0] if params.positional else None


def _has_words(params: Any) -> bool:
    """Whether a tag is more than a name and numbers.

    sd-webui-loractl, where it is switched on, has put numbers in the place of what it knows (``1@0,0@0.5``).
    """
    from lib_lora.weights.blocks.words import WORDS, is_number

    numbers = [*params.positional[1:], *(params.named[key] for key in ("te", "unet", "dyn") if key in params.named)]
    if not str(_name(params) or "").strip():
        return False
    return not all(is_number(str(item)) for item in numbers) or not WORDS.isdisjoint(params.named)


def _read_tag(items: Sequence[Any], p: Any) -> WeightedTag:
    """A tag with what could be understood of it. R and U are drawn from the seed of the batch's first picture."""
    from lib_lora.weights.blocks.elements import BUILT_IN_ELEMENTS, Elements
    from lib_lora.weights.blocks.presets import BUILT_IN, Presets
    from lib_lora.weights.blocks.words import read_tag

    family, faults = loaded_family(), []
    presets = _or_else(lambda: Presets.load(environment.data_dir()), BUILT_IN, faults)
    elements = _or_else(lambda: Elements.load(environment.data_dir()), BUILT_IN_ELEMENTS, faults)
    tag = read_tag(
        items, family=family, presets=presets, elements=elements, seed=(p.seeds or [p.seed])[0], strict=False
    )
    if family is None and not tag.is_plain:
        faults.append(f"<lora:{tag.name}>: this model's blocks are not known; its block weights are left out")
        tag = replace(tag, ratios=None, elements=None)
    return replace(tag, notes=(*tag.notes, *faults), hints=(*tag.hints, *presets.notes))


def _or_else(read: Callable[[], Any], otherwise: Any, faults: list[str]) -> Any:
    try:
        return read()
    except StudioError as fault:
        faults.append(str(fault))
        return otherwise


def loaded_family() -> Family | None:
    """Of the loaded model; None for one without block lists."""
    from modules import shared

    from lib_lora.arch.family import Family

    by_mark = {"is_sdxl": Family.SDXL, "is_sd2": Family.SD2, "is_sd1": Family.SD1}
    return next((family for mark, family in by_mark.items() if getattr(shared.sd_model, mark, False)), None)


def _plain(params_list: Sequence[Any], tags: Mapping[str, Sequence[WeightedTag]]) -> Iterator[Any]:
    """The tags in numbers alone. A LoRA that was read is there once: the WebUI has one strength for each file."""
    given = set()
    for params in params_list:
        name = _name(params)
        if name not in tags:
            yield params
        elif name not in given:
            given.add(name)
            own = tags[name]
            yield type(params)([name, sum(tag.te for tag in own), sum(tag.unet for tag in own), *_ranks(own)[-1:]])


def _ranks(tags: Iterable[WeightedTag]) -> list[int]:
    return [tag.dyn for tag in tags if tag.dyn is not None]


def _set_strengths(tags: Mapping[str, Sequence[WeightedTag]], before: Sequence[Strength]) -> None:
    """Give the WebUI's networks their tags, by name.

    Args:
        before: strengths that layers may have: an equal one is taken again, which is told the same at a glance.
    """
    for network in networks_module().loaded_networks:
        own = tags.get(network.name, ())
        if not all(tag.is_plain for tag in own):
            wanted = Strength((tag.te, tag) for tag in own), Strength((tag.unet, tag) for tag in own)
            network.te_multiplier, network.unet_multiplier = (
                next((old for old in before if old == new), new) for new in wanted
            )


def _strengths(network: Any) -> Iterator[Strength]:
    for strength in (network.te_multiplier, network.unet_multiplier):
        if isinstance(strength, Strength):
            yield strength


def _other_is_there(p: Any) -> bool:
    scripts = p.scripts.alwayson_scripts if p.scripts is not None else ()
    return any(script.title() == _OTHER for script in scripts)


# What people are told


def _tell(p: Any, tags: Mapping[str, Sequence[WeightedTag]]) -> None:
    for name, own in tags.items():
        if len({tag.dyn for tag in own}) > 1:
            _comment(p, f"<lora:{name}>: has one rank for each picture: dyn={_ranks(own)[-1]} counts for all its tags")
    every = [tag for own in tags.values() for tag in own]
    for tag in every:
        for note in tag.notes:
            _comment(p, note)
        for hint in tag.hints:
            _log_once(hint)
    _write_infotext(p, "; ".join(tag.words for tag in every if not tag.is_plain))


def _comment(p: Any, note: str) -> None:
    """In the page, below the picture, and in the log."""
    told = f"{SAYS}{note}"
    if told not in p.comments:
        print(told, file=sys.stderr)
    p.comment(told)


@lru_cache(maxsize=1000)
def _log_once(hint: str) -> None:
    print(f"{SAYS}{hint}", file=sys.stderr)


def _write_infotext(p: Any, words: str) -> None:
    """The numbers that presets and draws came to: the prompt keeps what was typed."""
    name = INFOTEXT
    if p.is_hr_pass:
        name = HIRES_INFOTEXT
        words = "" if words == p.extra_generation_params.get(INFOTEXT, "") else words
    p.extra_generation_params.pop(name, None)
    if words:
        p.extra_generation_params[name] = words
