"""What people write as ``optimizer_args``, and what an optimizer takes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from lib_lora.base.errors import StudioError
from lib_lora.training.optimizer_table import OptimizerEntry

_KEY = re.compile(r"""(?:^|(?<=[\s,"']))([A-Za-z_]\w*)\s*=""")


def parse_args(texts: Sequence[str]) -> dict[str, Any]:
    """Arguments from texts such as ``"weight_decay=0.01"`` and ``"betas=0.9,0.99"``; values are Python literals.

    One text may hold several, divided by spaces or commas and in quotes or not, as guides print them; a text without
    a name goes on with the value before it, since forms divide lists at commas.

    Raises:
        StudioError: a text is no ``name=value``, a value is no literal, or a name comes twice.
    """
    whole = ",".join(texts).strip()
    keys = list(_KEY.finditer(whole))
    opening = [match.start() - (match.start() > 0 and whole[match.start() - 1] in "\"'") for match in keys]
    if whole.strip(" ,") and (not keys or whole[: opening[0]].strip(" ,")):
        raise _bad_argument("is no name=value", whole)
    values: dict[str, Any] = {}
    for match, start, end in zip(keys, opening, [*opening[1:], len(whole)]):
        name, text = match[1], whole[match.end() : end].strip(" ,\t")
        if start < match.start():
            text = text.removesuffix(whole[start])
        if name in values:
            raise _bad_argument(f"{name} comes twice", whole)
        values[name] = _literal(name, text)
    return values


def _literal(name: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise _bad_argument(f"the value of {name} cannot be read", text) from None


def _bad_argument(problem: str, came: object) -> StudioError:
    return StudioError(
        problem,
        field="optimizer_args",
        came=came,
        allowed="name=value with numbers, True, False, None or lists of them",
    )


def allowed_args(optimizer: type[Optimizer], hidden: frozenset[str] = frozenset()) -> list[str] | None:
    """The names of the arguments that a class takes, without parameters and rate; None: it takes any."""
    parameters = inspect.signature(optimizer).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return [name for name in parameters if name not in {"params", "lr", *hidden}]


def check_names(entry: OptimizerEntry, optimizer: type[Optimizer], args: Mapping[str, Any]) -> None:
    if "lr" in args:
        raise StudioError("the rate has options of its own", field="optimizer_args", came="lr", allowed="learning_rate")
    allowed = allowed_args(optimizer, entry.hidden)
    for name in args:
        if name in entry.hidden or (allowed is not None and name not in allowed):
            raise StudioError(
                f"{entry.name} takes no such argument", field="optimizer_args", came=name, allowed=allowed
            )
