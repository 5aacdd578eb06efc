import hashlib
import struct

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.files.lora_file import LoraFile, model_hash_legacy, tensor_hashes
from lib_lora.files.safetensors_file import TensorData, write_safetensors

EMPTY_SHA = hashlib.sha256(b"").hexdigest()


def tensor(seed, count):
    return TensorData("F32", (count,), struct.pack(f"<{count}f", *[(seed * 31 + i * 7) % 1013 for i in range(count)]))


def addnet_hashes(tensors, metadata, tmp_path):
    """sd-scripts' ``precalculate_safetensors_hashes``: the file with the ss_ metadata alone, hashed from outside."""
    path = tmp_path / "reference.safetensors"
    write_safetensors(path, tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    raw = path.read_bytes()
    begin = int.from_bytes(raw[:8], "little") + 8
    return hashlib.sha256(raw[begin:]).hexdigest(), hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]


@pytest.mark.parametrize(
    "counts",
    [
        (5, 3),
        (200_000, 70_000, 9),  # the legacy slice begins inside one tensor and ends in the next
        (262_000, 262_000),  # it begins at a border between header, tensors
        (265_000,),  # the file ends inside the slice
    ],
)
def test_hashes_are_those_of_sd_scripts(tmp_path, counts):
    tensors = {f"m{index}.lora_up.weight": tensor(index, count) for index, count in enumerate(counts)}
    metadata = {"ss_tag": "x" * 100, "modelspec.title": "cat", "other": "y" * 999}
    whole, legacy = addnet_hashes(tensors, metadata, tmp_path)
    assert tensor_hashes(tensors, metadata) == {
        "sshs_model_hash": whole,
        "sshs_legacy_hash": legacy,
        "modelspec.hash_sha256": f"0x{whole}",
    }


def test_hashes_match_sd_scripts_own_code_path(tmp_path):
    """The same through the safetensors library, as sd-scripts computes it."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save

    values = torch.arange(300_000, dtype=torch.float32)
    metadata = {"ss_a": "1", "title": "2"}
    raw = save({"w": values, "alpha": torch.tensor(4.0)}, {"ss_a": "1"})
    begin = int.from_bytes(raw[:8], "little") + 8
    ours = tensor_hashes(
        {"w": TensorData("F32", (300_000,), values.numpy()), "alpha": TensorData("F32", (), struct.pack("<f", 4.0))},
        metadata,
    )
    assert ours["sshs_model_hash"] == hashlib.sha256(raw[begin:]).hexdigest()
    assert ours["sshs_legacy_hash"] == hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]


def test_hashes_do_not_depend_on_metadata_that_people_edit(tmp_path):
    tensors = {"a": tensor(1, 300_000)}
    first = tensor_hashes(tensors, {"ss_x": "1"})
    assert tensor_hashes(tensors, {"ss_x": "1", "modelspec.title": "new", **first}) == first


def test_a_file_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "x.safetensors"
    file = LoraFile({"a": tensor(1, 3), "b": tensor(2, 0)}, {"ss_x": "1"}).with_hashes()
    file.write(path)
    read = LoraFile.read(path)
    assert read.metadata == file.metadata
    assert read.metadata["sshs_model_hash"] == hashlib.sha256(bytes(file.tensors["a"].bytes())).hexdigest()
    assert {key: (t.dtype, t.shape, bytes(t.bytes())) for key, t in read.tensors.items()} == {
        key: (t.dtype, t.shape, bytes(t.bytes())) for key, t in file.tensors.items()
    }
    assert read.with_hashes().metadata == read.metadata


def test_reading_a_web_page_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"<html>" * 20)
    with pytest.raises(StudioError, match="web page"):
        LoraFile.read(path)


def test_the_legacy_hash_covers_64_kib_behind_the_first_mib(tmp_path):
    path = tmp_path / "model.safetensors"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    assert model_hash_legacy(path) == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


def test_the_legacy_hash_of_a_small_file_is_that_of_nothing(tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(b"small")
    assert model_hash_legacy(path) == EMPTY_SHA[:8]


def test_a_missing_file_has_no_hash(tmp_path):
    with pytest.raises(StudioError, match=r"none\.safetensors"):
        model_hash_legacy(tmp_path / "none.safetensors")
