"""What the strengths at which a LoRA is best say of the next training.

The rule is the training guides': a LoRA should be right at strength 1. Where it is best at 0.5 in the UNet, halve the
UNet's learning rate; where it is best at 2 in the text encoder, double the text encoder's. So a rate is multiplied with
the strength. An optimizer that finds its step size itself has no rates to set: there the length of the training is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_lora.training.optimizer_table import OPTIMIZERS

_RATES = {"unet": ("UNet", "unet_lr", "network_train_text_encoder_only"),
          "te": ("text encoder", "text_encoder_lr", "network_train_unet_only")}  # fmt: skip
_DIGITS = 3


@dataclass(frozen=True)
class Advice:
    """``values``: options of a training with what they should be; ``why``: sentences for a person."""

    values: Mapping[str, Any] = field(default_factory=dict)
    why: tuple[str, ...] = ()


def advise(unet: float, te: float, trained: Mapping[str, Any]) -> Advice:
    """Options for the next training.

    Args:
        unet, te: the strengths at which the LoRA is best, from 0 on.
        trained: the options of its training as far as they are known.
    """
    values: dict[str, Any] = {}
    why: list[str] = []
    best = {part: strength for part, strength in (("unet", unet), ("te", te)) if _was_trained(part, trained)}
    if all(strength <= 0 for strength in best.values()):
        return Advice(why=("It is best where nothing of it acts, which says nothing of how to train it.",))
    if _finds_its_rate(trained):
        _advise_length(best, trained, values, why)
    else:
        for part, strength in best.items():
            _advise_rate(part, strength, trained, values, why)
    return Advice(values, tuple(why))


def _was_trained(part: str, trained: Mapping[str, Any]) -> bool:
    """Whether it was, or nothing is known of it."""
    _, option, without = _RATES[part]
    rates = _rates(trained.get(option), trained.get("learning_rate"))
    return not trained.get(without) and (rates is None or any(rates))


def _advise_rate(part: str, strength: float, trained: Mapping[str, Any], values: dict, why: list[str]) -> None:
    name, option, without = _RATES[part]
    if strength == 1:
        why.append(f"It is best at strength 1 in the {name}: leave {option} as it is.")
        return
    if strength <= 0:
        values[without] = True
        why.append(f"It is best without its part in the {name}: do not train that.")
        return
    too = "too strong" if strength < 1 else "too weak"
    direction = f"multiply {option} with {strength:g}"
    rates = _rates(trained.get(option), trained.get("learning_rate"))
    if rates is None:
        why.append(f"It is best at {strength:g} in the {name}, so {too} at 1: {direction} next time.")
        return
    new = [_rounded(rate * strength) for rate in rates]
    values[option] = new if isinstance(trained.get(option), (list, tuple)) else new[0]
    shown = ", ".join(f"{old:g} becomes {now:g}" for old, now in zip(rates, new))
    why.append(f"It is best at {strength:g} in the {name}, so {too} at 1: {direction} ({shown}).")


def _advise_length(best: Mapping[str, float], trained: Mapping[str, Any], values: dict, why: list[str]) -> None:
    optimizer = trained["optimizer_type"]
    if set(best.values()) == {1}:
        why.append("It is best at strength 1: train as before.")
        return
    why.append(f"{optimizer} finds its learning rate itself: what can be changed is how long it trains.")
    without = {part: strength for part, strength in best.items() if strength <= 0}
    if without:
        for part, strength in without.items():
            _advise_rate(part, strength, trained, values, why)
        return
    part, strength = next(iter(best.items()))  # the UNet's, where it was trained
    option = next((name for name in ("max_train_epochs", "max_train_steps") if trained.get(name)), None)
    more = "longer" if strength > 1 else "shorter"
    if strength != 1:
        becomes = ""
        if option:
            values[option] = max(round(trained[option] * strength), 1)
            becomes = f" ({trained[option]} becomes {values[option]})"
        why.append(f"It is best at {strength:g} in the {_RATES[part][0]}: train {more}{becomes}.")
    if len(set(best.values())) > 1:
        unet, te = best.values()
        why.append(f"Text encoder {te:g} against UNet {unet:g}: only an optimizer with learning rates can part them.")


def _finds_its_rate(trained: Mapping[str, Any]) -> bool:
    name = trained.get("optimizer_type") or ""
    return name in OPTIMIZERS and OPTIMIZERS.get(name).adaptive


def _rates(rate: Any, usual: Any) -> list[float] | None:
    """The rates of a part; one that was not set is the usual one."""
    known = usual if rate in (None, (), []) else rate
    if known is None:
        return None
    return [float(each) for each in known] if isinstance(known, (list, tuple)) else [float(known)]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
