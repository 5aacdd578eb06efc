"""Nested Python values that hold tensors, as JSON and a table of tensors: what any optimizer's state is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lib_lora.base.errors import StudioError

# A JSON object is always one of ours, with one of these words as its only key; plain values stand for themselves.
_TENSOR, _DICT, _TUPLE, _NUMPY = "tensor", "dict", "tuple", "numpy"


def pack(value: Any, tensors: dict[str, torch.Tensor], place: str) -> Any:
    """``value`` as JSON; its tensors are put into ``tensors`` under names that begin with ``place``.

    Raises:
        StudioError: it holds something that is neither a tensor, a number, text, nothing, a list, a tuple nor a dict
            of these.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        tensors[place] = value.detach()
        return {_TENSOR: place}
    if isinstance(value, np.generic):
        return {_NUMPY: [value.dtype.name, value.item()]}
    if isinstance(value, Mapping):
        pairs = [[pack(key, tensors, place), pack(own, tensors, f"{place}.{key}")] for key, own in value.items()]
        return {_DICT: pairs}
    if isinstance(value, (list, tuple)):
        items = [pack(own, tensors, f"{place}.{index}") for index, own in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    raise StudioError(
        "the optimizer keeps something that a state cannot hold",
        field=place,
        came=type(value).__name__,
        allowed="tensors, numbers, texts, and lists, tuples and dicts of them",
    )


def unpack(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What ``pack`` was given.

    Raises:
        ValueError, KeyError: ``packed`` was not made by ``pack``, or a tensor is missing.
    """
    if isinstance(packed, list):
        return [unpack(own, tensors) for own in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == _TENSOR:
        return tensors[content]
    if kind == _DICT:
        return {unpack(key, tensors): unpack(own, tensors) for key, own in content}
    if kind == _TUPLE:
        return tuple(unpack(own, tensors) for own in content)
    if kind == _NUMPY:
        name, number = content
        return np.dtype(name).type(number)
    raise ValueError(f"unknown kind {kind!r}")
