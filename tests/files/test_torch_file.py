"""PyTorch's files: the same tensors as torch.load gives, and nothing out of bounds from a file that lies."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.files import torch_file
from lib_lora.files.torch_file import read_torch_file

NUMPY = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "U8": "u1", "BOOL": "?", "F64": "<f8", "I32": "<i4", "I8": "i1"}
FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def save(path, value, is_zip=True):
    torch.save(value, path, _use_new_zipfile_serialization=is_zip)
    return path


def array(path, placed):
    """The tensor as numpy sees the file's bytes."""
    data = np.fromfile(path, dtype=np.uint8)[placed.begin : placed.end]
    dtype = np.dtype(NUMPY[placed.dtype])
    strides = [step * dtype.itemsize for step in placed.stride]
    return np.ndarray(placed.shape, dtype, data.tobytes(), strides=strides)


def tensors():
    base = torch.arange(60, dtype=torch.float32)
    return {
        "whole": base.reshape(3, 4, 5),
        "transposed": base.reshape(12, 5).t(),
        "part": base[7:31:3],
        "scalar": torch.tensor(7, dtype=torch.int64),
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "parameter": torch.nn.Parameter(torch.tensor([[1.0, 2.0]], dtype=torch.float64)),
        "flags": torch.tensor([True, False]),
        "ids": torch.arange(77).expand(1, -1),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "short": torch.tensor([-3], dtype=torch.int8),
    }


@FORMATS
def test_tensors_are_those_that_were_saved(tmp_path, is_zip):
    path = save(tmp_path / "x.pt", tensors(), is_zip)
    placed = read_torch_file(path)
    assert set(placed) == set(tensors())
    for key, tensor in tensors().items():
        assert np.array_equal(array(path, placed[key]), tensor.detach().numpy()), key


@FORMATS
def test_an_empty_tensor_keeps_its_shape(tmp_path, is_zip):
    placed = read_torch_file(save(tmp_path / "x.pt", {"none": torch.zeros(3, 0), "one": torch.ones(1)}, is_zip))
    assert placed["none"].shape == (3, 0) and placed["none"].begin == placed["none"].end


@FORMATS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_other_dtypes_are_known_by_name(tmp_path, is_zip, dtype):
    try:
        path = save(tmp_path / "x.pt", {"x": torch.ones(3).to(dtype)}, is_zip)
    except KeyError:
        pytest.skip("this PyTorch cannot save the dtype")
    names = {torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}
    (placed,) = read_torch_file(path).values()
    assert placed.dtype == names.get(dtype, "C64")
    assert placed.end - placed.begin == 3 * torch.ones(1).to(dtype).element_size()


class ModelCheckpoint:
    """Stands for pytorch_lightning's callback of that name, whose state classic checkpoints hold."""

    def __init__(self):
        self.best, self.when = np.float64(0.5), {"x": [1]}

    def __reduce_ex__(self, protocol):
        return (ModelCheckpoint, (), self.__dict__)


@FORMATS
def test_a_checkpoint_of_pytorch_lightning_gives_its_state_dict(tmp_path, is_zip):
    state = collections.OrderedDict(tensors())
    state._metadata = {"version": 1}
    checkpoint = {
        "epoch": 3,
        "global_step": np.int64(470000),
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state,
        "callbacks": {ModelCheckpoint: ModelCheckpoint()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
    }
    path = save(tmp_path / "x.ckpt", checkpoint, is_zip)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert set(read_torch_file(path)) == set(tensors())


@FORMATS
def test_nested_tables_lists_and_modules_have_keys_joined_by_dots(tmp_path, is_zip):
    value = {
        "string_to_param": {"*": torch.ones(1, 768)},
        320: [{"linear.0.weight": torch.ones(2)}],
        "name": "x",
        "module": torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.ones(1))}),
    }
    keys = set(read_torch_file(save(tmp_path / "x.pt", value, is_zip)))
    assert {"string_to_param.*", "320.0.linear.0.weight"} <= keys
    assert any(key.startswith("module.") and key.endswith(".a") for key in keys)


# --- files that lie ------------------------------------------------------------------------------------------------


class Reference:
    """Pickled as whatever persistent id it is given."""

    def __init__(self, identity):
        self.identity = identity


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def forged_pickle(value):
    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return thing.identity if isinstance(thing, Reference) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def forged_zip(path, value, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", forged_pickle(value))
        for name, data in storages.items():
            archive.writestr(name, data)
    return path


def forged_legacy(path, value, storages):
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            file.write(pickle.dumps(part, 2))
        file.write(forged_pickle(value))
        file.write(pickle.dumps(list(storages), 2))
        for data in storages.values():
            file.write(struct.pack("<q", len(data) // 4) + data)
    return path


def storage(key="0", count=6, kind=torch.FloatStorage, *more):
    return Reference(("storage", kind, key, "cpu", count, *more))


def tensor(source, offset=0, shape=(2, 3), stride=(3, 1)):
    return Call(torch._utils._rebuild_tensor_v2, source, offset, shape, stride, False, collections.OrderedDict())


SIX = np.arange(6, dtype="<f4").tobytes()


@FORMATS
def test_a_forged_file_that_is_honest_is_read(tmp_path, is_zip):
    value = {"x": tensor(storage())}
    path = tmp_path / "x.pt"
    if is_zip:
        forged_zip(path, value, {"archive/data/0": SIX})
    else:
        forged_legacy(path, value, {"0": SIX})
    (placed,) = read_torch_file(path).values()
    assert np.array_equal(array(path, placed), np.arange(6, dtype="f4").reshape(2, 3))


@FORMATS
@pytest.mark.parametrize(
    "value",
    [
        tensor(storage(), offset=1),
        tensor(storage(), offset=-1),
        tensor(storage(), offset=2**62),
        tensor(storage(), offset=True),
        tensor(storage(), offset=1.5),
        tensor(storage(), offset=6, shape=(1,), stride=(1,)),
        tensor(storage(), offset=7, shape=(0,), stride=(1,)),
        tensor(storage(), shape=(2, 4)),
        tensor(storage(), shape=(7,), stride=(1,)),
        tensor(storage(), shape=(-1, 3)),
        tensor(storage(), shape=(2**40, 2**40), stride=(0, 0)),
        tensor(storage(), shape=(0, 2**40, 2**40), stride=(1, 1, 1)),
        tensor(storage(), shape=(1000,), stride=(0,)),
        tensor(storage(), shape=(2, 3), stride=(4, 1)),
        tensor(storage(), shape=(2, 3), stride=(-3, 1)),
        tensor(storage(), shape=(2, 3), stride=(2**62, 1)),
        tensor(storage(), shape=(2, 3), stride=(1,)),
        tensor(storage(), shape=(1,) * 65, stride=(1,) * 65),
        tensor(storage(), shape="23"),
        tensor(storage(), shape=(2, "3")),
        tensor(storage(count=7)),
        tensor(storage(count=-1)),
        tensor(storage(count=2**60)),
        tensor(storage(count="6")),
        tensor(storage(kind=torch.DoubleStorage)),
        tensor(storage(kind=print)),
        tensor(storage(kind="FloatStorage")),
        tensor(storage(key="1")),
        tensor(storage(key="../../0")),
        tensor(storage(key=0)),
        tensor("no storage"),
        tensor(None),
        tensor(Reference("a text")),
        tensor(Reference(("storage",))),
        tensor(Reference(("weights", torch.FloatStorage, "0", "cpu", 6))),
        tensor(Reference(("module", dict, "dict.py", "import os"))),
        tensor(storage("0", 6, torch.FloatStorage, ("v", 4, 6))),
        tensor(storage("0", 6, torch.FloatStorage, ("v", -2, 6))),
        tensor(storage("0", 6, torch.FloatStorage, "view")),
        [tensor(storage()), tensor(storage(count=3), shape=(3,), stride=(1,))],
        Call(torch._utils._rebuild_tensor_v2, storage()),
    ],
)
def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path, is_zip, value):
    path = tmp_path / "x.pt"
    if is_zip:
        forged_zip(path, {"x": value}, {"archive/data/0": SIX})
    else:
        forged_legacy(path, {"x": value}, {"0": SIX})
    with pytest.raises(StudioError) as caught:
        read_torch_file(path)
    assert caught.value.file == str(path)


def test_a_part_of_a_storage_is_read_as_the_legacy_format_means_it(tmp_path):
    part = storage("0", 6, torch.FloatStorage, ("v", 2, 4))
    path = forged_legacy(tmp_path / "x.pt", {"x": tensor(part, 1, (3,), (1,))}, {"0": SIX})
    (placed,) = read_torch_file(path).values()
    assert array(path, placed).tolist() == [3.0, 4.0, 5.0]


@FORMATS
def test_hostile_calls_around_tensors_leave_no_trace(tmp_path, is_zip):
    import os

    mark = tmp_path / "executed"
    value = {
        "x": tensor(storage()),
        "attack": Call(os.system, f"touch {mark}"),
        "nested": [Call(eval, f"open({str(mark)!r}, 'w')")],
        Call(os.mkdir, str(mark)): 1,
    }
    path = tmp_path / "x.pt"
    if is_zip:
        forged_zip(path, value, {"archive/data/0": SIX})
    else:
        forged_legacy(path, value, {"0": SIX})
    assert set(read_torch_file(path)) == {"x"}
    assert not mark.exists()


def test_names_in_the_archive_are_never_paths(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    path = forged_zip(
        folder / "x.pt",
        {"x": tensor(storage("../../../escaped"))},
        {"archive/data/../../../escaped": SIX, "../outside": b"x", "/absolute": b"y"},
    )
    read_torch_file(path)
    assert [item.name for item in tmp_path.iterdir()] == ["inside"]
    assert [item.name for item in folder.iterdir()] == ["x.pt"]


def test_compressed_entries_are_refused_and_not_unpacked(tmp_path, monkeypatch):
    def unpack(*_):
        raise AssertionError("unpacked")

    bomb = bytes(100_000_000)
    path = forged_zip(tmp_path / "x.pt", {"x": tensor(storage())}, {"archive/data/0": bomb}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(zipfile.ZipFile, "open", unpack)
    with pytest.raises(StudioError, match="compressed"):
        read_torch_file(path)


def test_an_entry_that_claims_to_be_longer_than_the_file_is_refused(tmp_path):
    path = forged_zip(tmp_path / "x.pt", {"x": tensor(storage(count=250_000))}, {"archive/data/0": SIX})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")  # the directory's entry of the storage
    data[place + 20 : place + 28] = struct.pack("<II", 1_000_000, 1_000_000)
    path.write_bytes(data)
    with pytest.raises(StudioError, match="truncated|not where"):
        read_torch_file(path)


def test_an_entry_that_is_said_to_stand_elsewhere_is_refused(tmp_path):
    path = forged_zip(tmp_path / "x.pt", {"x": tensor(storage())}, {"archive/data/0": SIX})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 42 : place + 46] = struct.pack("<I", 11)
    path.write_bytes(data)
    with pytest.raises(StudioError, match="not where"):
        read_torch_file(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_names_a_part_twice_is_refused(tmp_path):
    path = forged_zip(tmp_path / "x.pt", {"x": tensor(storage())}, {"archive/data/0": SIX})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", SIX)
    with pytest.raises(StudioError, match="twice"):
        read_torch_file(path)


def test_a_table_that_repeats_itself_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "MAX_LEAVES", 10_000)
    value = [tensor(storage())]
    for _ in range(30):
        value = [value, value]  # 2^30 leaves by reference
    with pytest.raises(StudioError, match="more than 10000"):
        read_torch_file(forged_zip(tmp_path / "x.pt", value, {"archive/data/0": SIX}))


def test_a_table_inside_itself_ends(tmp_path):
    value = {"x": tensor(storage())}
    value["self"] = value
    keys = set(read_torch_file(forged_zip(tmp_path / "x.pt", value, {"archive/data/0": SIX})))
    assert "x" in keys and len(keys) <= torch_file.MAX_DEPTH


def test_a_table_of_contents_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "MAX_PICKLE_BYTES", 100)
    for is_zip in (True, False):
        with pytest.raises(StudioError, match="table of contents"):
            read_torch_file(save(tmp_path / "x.pt", tensors(), is_zip))


def test_a_list_of_contents_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "MAX_DIRECTORY_BYTES", 100_000)
    entries = {"archive/data/0": SIX} | {f"archive/{number}": b"" for number in range(2000)}
    path = forged_zip(tmp_path / "x.pt", {"x": tensor(storage())}, entries)
    with pytest.raises(StudioError, match="list of contents"):
        read_torch_file(path)


# --- what is no checkpoint -----------------------------------------------------------------------------------------


@FORMATS
def test_every_cut_of_a_whole_file_is_refused(tmp_path, is_zip):
    data = save(tmp_path / "x.pt", tensors(), is_zip).read_bytes()
    cut = tmp_path / "cut.pt"
    for size in [*range(12), *range(12, len(data), 97), len(data) - 1]:
        cut.write_bytes(data[:size])
        with pytest.raises(StudioError):
            read_torch_file(cut)


def test_a_cut_off_file_is_called_truncated(tmp_path):
    for is_zip in (True, False):
        path = save(tmp_path / "x.pt", {"x": torch.ones(10_000)}, is_zip)
        path.write_bytes(path.read_bytes()[:20_000])
        with pytest.raises(StudioError, match="truncated"):
            read_torch_file(path)


def test_random_damage_gives_tensors_within_the_file_or_an_error(tmp_path):
    random = np.random.default_rng(1)
    for is_zip in (True, False):
        data = save(tmp_path / "x.pt", tensors(), is_zip).read_bytes()
        damaged = tmp_path / "damaged.pt"
        for _ in range(300):
            copy = bytearray(data)
            for place in random.integers(0, min(len(data), 3000), 3):
                copy[place] = random.integers(0, 256)
            damaged.write_bytes(copy)
            try:
                placed = read_torch_file(damaged)
            except StudioError:
                continue
            assert all(0 <= item.begin <= item.end <= len(data) for item in placed.values())


@pytest.mark.parametrize(
    "value, words",
    [
        ({"epoch": 3}, "holds no tensors, but a table"),
        ([], "holds no tensors, but a list"),
        (collections.Counter(), "holds no tensors, but an object of collections.Counter"),
    ],
)
def test_a_file_without_tensors_says_what_it_holds(tmp_path, value, words):
    with pytest.raises(StudioError, match=words):
        read_torch_file(save(tmp_path / "x.pt", value))


def test_a_pickle_that_is_not_pytorchs_is_named(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(StudioError, match="a pickle, but no PyTorch file"):
        read_torch_file(path)


def test_an_ordinary_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("model.safetensors", b"x")
    with pytest.raises(StudioError, match="ordinary zip"):
        read_torch_file(tmp_path / "x.zip")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_named(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(StudioError, match="TorchScript"):
        read_torch_file(tmp_path / "x.pt")


def test_the_oldest_format_is_named(tmp_path):
    with tarfile.open(tmp_path / "x.pt", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(StudioError, match="tar archive, as PyTorch wrote before 2017"):
        read_torch_file(tmp_path / "x.pt")


def test_a_big_endian_file_is_refused(tmp_path):
    path = forged_zip(tmp_path / "x.pt", {"x": tensor(storage())}, {"archive/data/0": SIX, "archive/byteorder": b"big"})
    with pytest.raises(StudioError, match="big-endian"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>Access denied</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n", "Git LFS"),
        (b'{"error":"Unauthorized"}', "JSON"),
        (b"Access denied. Please log in to download this model.", "text saved under this name.*Access denied"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "picture"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "picture"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(50), "picture"),
        (b"GGUF\x03\x00\x00\x00" + bytes(50), "GGUF"),
        (bytes(4096), "unfinished download"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(50), "RAR"),
        (bytes(range(7, 200)), "damaged"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, content, words):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(StudioError, match=words):
        read_torch_file(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(StudioError, match="no such file"):
        read_torch_file(tmp_path / "none.ckpt")
    with pytest.raises(StudioError, match="cannot be read"):
        read_torch_file(tmp_path)
