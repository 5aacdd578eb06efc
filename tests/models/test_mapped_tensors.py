from __future__ import annotations

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import read_header
from lib_lora.files.torch_file import PlacedTensor
from lib_lora.models.loader import load_model
from lib_lora.models.mapped_tensors import align_parameters, map_tensors, placed_in_safetensors
from tiny import write_checkpoint


def read(path):
    return map_tensors(path, placed_in_safetensors(read_header(path)))


def shift(path, target):
    """A copy whose header is as writers before 2023 made it: of odd length, and so are the places of the tensors."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.dumps(json.loads(raw[8 : 8 + length])).encode().rstrip()
    header += b" " * (1 - len(header) % 2)
    target.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])
    return target


DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.mark.parametrize("dtype", [*DTYPES, "float8_e4m3fn", "float8_e5m2", "complex64"])
def test_every_dtype_is_read_as_the_safetensors_library_does(tmp_path, dtype):
    if dtype == "complex64":
        data = struct.pack("<4f", 1, 2, 3, 4)
        header = json.dumps({"x": {"dtype": "C64", "shape": [2], "data_offsets": [0, 16]}}).encode()
        (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + data)
        assert read(tmp_path / "x")["x"].tolist() == [1 + 2j, 3 + 4j]
        return
    tensors = {"x": torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)), "none": torch.ones(0, 4)}
    save_file(tensors, str(tmp_path / "x"))
    ours, theirs = read(tmp_path / "x"), load_file(tmp_path / "x")
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype and ours[key].shape == tensor.shape
        assert torch.equal(ours[key].float(), tensor.float())


def test_a_dtype_that_pytorch_lacks_is_an_error(tmp_path):
    (tmp_path / "x").write_bytes(bytes(16))
    with pytest.raises(StudioError, match="F8_E8M0"):
        map_tensors(tmp_path / "x", {"a": PlacedTensor("F8_E8M0", (4,), (1,), 0, 4)})


def test_an_empty_table_maps_nothing(tmp_path):
    assert map_tensors(tmp_path / "not even there", {}) == {}


def test_each_tensor_has_a_storage_of_its_own_length(tmp_path):
    # Else deepcopy or torch.save of one parameter would copy the whole file.
    save_file({"a": torch.ones(10), "b": torch.ones(1000)}, str(tmp_path / "x"))
    assert {key: t.untyped_storage().nbytes() for key, t in read(tmp_path / "x").items()} == {"a": 40, "b": 4000}


def test_tensors_at_odd_places_are_read_rightly_and_aligned_before_computing(tmp_path):
    path = write_checkpoint(tmp_path)
    expected = {key: tensor.clone() for key, tensor in load_model(path).unet.state_dict().items()}
    path = shift(path, tmp_path / "odd.safetensors")
    shutil.copy(tmp_path / "tiny.yaml", tmp_path / "odd.yaml")
    raw = read(path)
    assert all(tensor.data_ptr() % 4 for tensor in raw.values())
    model = load_model(path)
    assert all(p.data_ptr() % p.element_size() == 0 for module in model.modules() for p in module.parameters())
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.unet.state_dict().items())


def test_aligning_leaves_what_stands_right_where_it_is():
    module = torch.nn.Linear(4, 4)
    before = [p.data_ptr() for p in module.parameters()]
    align_parameters(module)
    assert [p.data_ptr() for p in module.parameters()] == before
