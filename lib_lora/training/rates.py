"""Learning rates: of the UNet, of each text encoder, and of each of their blocks.

Block weights multiply the rate; a layer whose weight is 0 gets no adapter. They are written as sd-scripts' lists
``down_lr_weight``, ``mid_lr_weight`` and ``up_lr_weight`` (kohya-ss/sd-scripts 48d368f, networks/lora.py,
``get_block_lr_weight``; unlike there a list of the wrong length is an error), or as one list as in
sd-webui-lora-block-weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import TEXT_ENCODER, UNET, Target
from lib_lora.arch.blocks import BASE, BLOCK_LISTS, MIDDLE, block_of, middle_place, unet_blocks
from lib_lora.arch.family import Family
from lib_lora.arch.keys import split_prefix
from lib_lora.base.errors import StudioError
from lib_lora.training.config import TrainConfig, trained_parts
from lib_lora.training.optimizer_table import find_optimizer

_MIDDLE_PARTS = 3
_CURVES: dict[str, Callable[[float], float]] = {
    "cosine": lambda x: math.sin(math.pi * (1 - x) / 2),
    "sine": lambda x: math.sin(math.pi * x / 2),
    "linear": lambda x: x,
    "reverse_linear": lambda x: 1 - x,
    "zeros": lambda x: 0.0,
}


@dataclass(frozen=True)
class BlockWeights:
    """What each layer's rate is multiplied by.

    Attributes:
        by_block: by the block's name ("IN04", "BASE"); a missing one counts 1.
        middle: of the middle block's three parts, where these are weighed one by one.
    """

    by_block: Mapping[str, float] = field(default_factory=dict)
    middle: tuple[float, ...] = ()

    def of(self, target: Target) -> float:
        """The weight of one layer; 1 for what belongs to no block."""
        if target.part == TEXT_ENCODER:
            return self.by_block.get(BASE, 1.0)
        place = middle_place(target.module_name)
        if self.middle and place is not None:
            return self.middle[place]
        return self.by_block.get(block_of(target.module_name) or "", 1.0)


def block_weights(config: TrainConfig, family: Family) -> BlockWeights:
    """The block weights that the options give.

    Raises:
        StudioError: a list that the family does not have, or that is no list of numbers.
    """
    if config.block_lr_weight:
        return _from_one_list(config.block_lr_weight, family)
    blocks = unet_blocks(family)
    by_block: dict[str, float] = {}
    for option, word in (("down_lr_weight", "IN"), ("up_lr_weight", "OUT")):
        names = [name for name in blocks if name.startswith(word)]
        given = getattr(config, option)
        if given:
            by_block |= zip(names, _numbers(option, given, len(names)))
    middle = config.mid_lr_weight
    if len(middle) == 1:
        by_block[MIDDLE] = middle[0]
    elif middle and (family is not Family.SDXL or len(middle) != _MIDDLE_PARTS):
        allowed = "one number, or one for each of its three parts" if family is Family.SDXL else "one number"
        raise _wrong("mid_lr_weight", middle, f"{family.value}: {allowed}")
    limit = config.block_lr_zero_threshold
    return BlockWeights(
        {name: _above(weight, limit) for name, weight in by_block.items()},
        tuple(_above(weight, limit) for weight in middle) if len(middle) > 1 else (),
    )


def _above(weight: float, limit: float) -> float:
    return weight if weight > limit else 0.0


def _from_one_list(weights: Sequence[float], family: Family) -> BlockWeights:
    lists = BLOCK_LISTS[family]
    if len(weights) not in lists:
        lengths = " or ".join(f"{length} ({names[0]}, {names[1]} to {names[-1]})" for length, names in lists.items())
        raise _wrong("block_lr_weight", weights, f"for {family.value} a list of {lengths}")
    names = lists[len(weights)]
    # Blocks that the shorter list does not name are without attention and keep their rate.
    return BlockWeights(dict(zip(names, weights)))


def _numbers(option: str, texts: Sequence[str], count: int) -> list[float]:
    """``count`` weights from numbers, or from a curve such as ``cosine+.25``."""
    allowed = f"{count} numbers, at least 0, or one of {', '.join(_CURVES)}, which +number lifts"
    try:
        name, _, lift = texts[0].partition("+")
        if len(texts) == 1 and name in _CURVES:
            numbers = [_CURVES[name](index / (count - 1)) + float(lift or 0) for index in range(count)]
        else:
            numbers = [float(text) for text in texts]
    except ValueError:
        raise _wrong(option, texts, allowed) from None
    if len(numbers) != count or not all(0 <= number < math.inf for number in numbers):
        raise _wrong(option, texts, allowed)
    return numbers


def _wrong(option: str, came: Sequence[object], allowed: str) -> StudioError:
    return StudioError("no block weights of this model", field=option, came=", ".join(map(str, came)), allowed=allowed)


def default_rate(config: TrainConfig) -> float | None:
    """The rate of what has none of its own; None where the optimizer makes it."""
    if config.learning_rate is not None:
        return config.learning_rate
    return find_optimizer(config.optimizer_type).default_lr


class LearningRates:
    """The groups of a network's parameters and the rate of each.

    Groups are called "unet" and "text_encoder", or "text_encoder_1" and "text_encoder_2" where these have rates of
    their own; " x0.5" is added where a block weight of 0.5 applies, or a ratio of LoRA+.

    Raises:
        StudioError: options that do not fit the model.
    """

    def __init__(self, config: TrainConfig, family: Family) -> None:
        self.config = config
        default = default_rate(config)
        self._unet = default if config.unet_lr is None else config.unet_lr
        self._text = self._text_rates(config.text_encoder_lr, family, default)
        self._weights = block_weights(config, family)
        both = config.loraplus_lr_ratio or 1.0
        self._plus = {
            UNET: config.loraplus_unet_lr_ratio or both,
            TEXT_ENCODER: config.loraplus_text_encoder_lr_ratio or both,
        }

    @staticmethod
    def _text_rates(given: tuple[float, ...] | None, family: Family, default: float | None) -> tuple[float | None, ...]:
        encoders = 2 if family is Family.SDXL else 1
        if not given:
            return (default,) * encoders
        if len(given) not in (1, encoders):
            raise StudioError(
                f"{family.value} has {'two text encoders' if encoders == 2 else 'one text encoder'}",
                field="text_encoder_lr",
                came=", ".join(map(str, given)),
                allowed="one rate for both, or one for each" if encoders == 2 else "one rate",
            )
        return given if len(given) == encoders else given * encoders

    def wants(self, target: Target) -> bool:
        """Whether a layer is trained at all."""
        return self._rate(target) != 0 and self._weights.of(target) != 0

    def group(self, target: Target, plus: bool = False) -> str:
        name = target.part
        if name == TEXT_ENCODER and len(set(self._text)) > 1:
            name = f"{TEXT_ENCODER}_{_encoder(target) + 1}"
        weight = self._factor(target, plus)
        return name if weight == 1 else f"{name} x{weight:g}"

    def _factor(self, target: Target, plus: bool) -> float:
        """What the part's rate is multiplied by; ``plus`` where LoRA+ has a ratio for the parameter."""
        return self._weights.of(target) * (self._plus[target.part] if plus else 1.0)

    def groups(self, network: Network) -> dict[str, float | None]:
        """The rate of each group that the network has.

        Raises:
            StudioError: block weights or LoRA+, and an optimizer that makes its own rate.
        """
        rates: dict[str, float | None] = {}
        for adapter in network:
            for plus in (False, True) if adapter.plus_parameters() else (False,):
                rate, weight = self._rate(adapter.target), self._factor(adapter.target, plus)
                if rate is None and weight != 1:
                    raise StudioError(
                        f"must be given with block weights and LoRA+: {self.config.optimizer_type} makes its own rate",
                        field="learning_rate",
                        allowed="a number above 0",
                    )
                rates[self.group(adapter.target, plus)] = None if rate is None else rate * weight
        return rates

    def of_parts(self) -> dict[str, float | list[float | None] | None]:
        """The rates of what is trained before block weights, as metadata give them."""
        train_unet, train_text = trained_parts(self.config)
        rates: dict[str, float | list[float | None] | None] = {UNET: self._unet} if train_unet else {}
        if train_text:
            rates[TEXT_ENCODER] = self._text[0] if len(set(self._text)) == 1 else list(self._text)
        return rates

    def _rate(self, target: Target) -> float | None:
        return self._unet if target.part == UNET else self._text[_encoder(target)]


def _encoder(target: Target) -> int:
    """Which text encoder a layer is in, from 0."""
    return int(split_prefix(target.key)[0] == "lora_te2_")
