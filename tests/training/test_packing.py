from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.training.packing import pack, unpack


def through_json(value):
    tensors = {}
    packed = json.loads(json.dumps(pack(value, tensors, "here")))
    return unpack(packed, tensors), tensors


def test_nested_values_come_back_with_their_types():
    value = {0: [1, 2.5, None, True, "x"], "betas": (0.9, 0.99), "nested": {3: {"a": [(1,), []]}}, "dict": {}}
    back, tensors = through_json(value)
    assert back == value and tensors == {}
    assert type(back["betas"]) is tuple and list(back) == [0, "betas", "nested", "dict"]


def test_numbers_come_back_to_the_last_bit():
    numbers = [0.1, 1e-308, 2**0.5, float("inf"), -0.0, 10**30]
    back, _ = through_json(numbers)
    assert back == numbers and math.copysign(1, back[4]) == -1
    assert math.isnan(through_json(float("nan"))[0])
    single = through_json(np.float32(0.1))[0]
    assert type(single) is np.float32 and single == np.float32(0.1)


def test_tensors_keep_dtype_shape_and_place():
    value = {"state": {1: {"m": torch.randn(2, 3), "step": torch.tensor(7.0), "q": torch.tensor([1, 255]).byte()}}}
    back, tensors = through_json(value)
    assert set(tensors) == {"here.state.1.m", "here.state.1.step", "here.state.1.q"}
    for key, tensor in value["state"][1].items():
        assert torch.equal(back["state"][1][key], tensor) and back["state"][1][key].dtype == tensor.dtype


def test_what_cannot_be_kept_is_named_with_its_place():
    with pytest.raises(StudioError, match=r"here\.groups\.0.*object"):
        pack({"groups": [object()]}, {}, "here")
