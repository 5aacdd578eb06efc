from __future__ import annotations

import base64
import hashlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Saved, ToolDone, event_from_json, event_to_json
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.weights.inspect import report_text, run
from lib_lora.weights.options import InspectConfig
from lib_lora.weights.output import write_lora
from tiny import write_checkpoint

# Blocks as sd-webui-lora-block-weight calls them.
IN01 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
IN01_CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
M00 = "lora_unet_mid_block_attentions_0_proj_in"
BASE = "lora_te_text_model_encoder_layers_0_mlp_fc1"
OTHER = "lora_unet_time_embedding_linear_1"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def lora(key, rank, out=24, size=20, kernel=(), alpha=1.0):
    ones = (1,) * len(kernel)
    return {
        f"{key}.lora_up.weight": draw(out, rank, *ones),
        f"{key}.lora_down.weight": draw(rank, size, *kernel, seed=1),
        f"{key}.alpha": torch.tensor(alpha),
    }


def norm(tensors, key):
    up, down = (tensors[f"{key}.lora_{side}.weight"].flatten(1).double().numpy() for side in ("up", "down"))
    return float(tensors[f"{key}.alpha"]) / down.shape[0] * np.linalg.norm(up @ down)


def example():
    tensors = lora(IN01, 4, size=768) | lora(IN01_CONV, 2, kernel=(3, 3)) | lora(M00, 4, kernel=(1, 1))
    return tensors | lora(BASE, 4) | lora(OTHER, 1)


@pytest.fixture
def file(tmp_path):
    tags = {"2_zorb": {"zorb": 5, "red ": 2}, "1_more": {"red": 4}}
    metadata = {"ss_tag_frequency": json.dumps(tags), "ss_output_name": "zorb"}
    save_file(example(), str(tmp_path / "zorb.safetensors"), metadata)
    return tmp_path / "zorb.safetensors"


def inspected(file, **options):
    events = list(run(from_mapping(InspectConfig, {"model": file, **options}), Control()))
    assert isinstance(events[-1], ToolDone)
    assert event_from_json(json.loads(json.dumps(event_to_json(events[-1])))) == events[-1]
    assert report_text(events[-1].report)
    return events[-1].report, events


def test_a_file_is_told_in_full(file):
    report, _ = inspected(file)
    assert (report["family"], report["modules"], report["types"]) == ("SD1", 5, {"LoRA": 5})
    assert report["ranks"] == {"1": 1, "2": 1, "4": 3}
    assert report["scales"] == [0.25, 0.5, 1.0]
    assert report["bytes"] == file.stat().st_size
    assert report["parameters"] == sum(tensor.numel() for tensor in example().values())
    assert report["tags"] == [["red", 6], ["zorb", 5]]
    assert report["metadata"]["ss_output_name"] == "zorb"


def test_norms_are_those_of_the_whole_change_per_block(file):
    report, _ = inspected(file)
    tensors = example()
    wanted = {
        "BASE": norm(tensors, BASE),
        "IN01": np.hypot(norm(tensors, IN01), norm(tensors, IN01_CONV)),
        "M00": norm(tensors, M00),
        "other": norm(tensors, OTHER),
    }
    assert [row["block"] for row in report["blocks"]] == list(wanted)
    for row in report["blocks"]:
        assert row["norm"] == pytest.approx(wanted[row["block"]], rel=1e-10)


def test_a_norm_that_depends_on_the_weights_wants_the_checkpoint(tmp_path):
    path = write_checkpoint(tmp_path / "model")
    weight = load_file(path)["model.diffusion_model.middle_block.1.proj_in.weight"].flatten(1)
    share = 0.1 * draw(weight.shape[0], 1)
    file = tmp_path / "ia3.safetensors"
    save_file({f"{M00}.weight": share, f"{M00}.on_input": torch.tensor(False)}, str(file))
    assert inspected(file)[0]["blocks"] == [{"block": "M00", "norm": None, "modules": 1, "share": None}]
    (row,) = inspected(file, base=path)[0]["blocks"]
    assert row["norm"] == pytest.approx(float((weight.double() * share).norm()), rel=1e-6)


def test_the_chart_has_a_bar_as_high_as_each_blocks_norm(file, tmp_path):
    report, events = inspected(file, picture=tmp_path / "chart.png")
    assert Saved(tmp_path / "chart.png", 0) in events
    pixels = np.asarray(Image.open(tmp_path / "chart.png").convert("RGB")).astype(int)
    blue = (abs(pixels - np.array([58, 110, 190])).sum(2) < 8).sum(0)
    columns = np.flatnonzero(blue)
    starts = [c for c in columns if c - 1 not in set(columns)]
    norms = [row["norm"] for row in report["blocks"]]
    heights = np.array([blue[start] for start in starts])
    assert len(heights) == len(norms)
    assert np.allclose(heights / heights.max(), np.array(norms) / max(norms), atol=0.02)
    with pytest.raises(StudioError):
        inspected(file, picture=tmp_path / "chart.png")


def data_bytes(path):
    raw = path.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def test_metadata_are_edited_in_place_and_no_tensor_is_touched(file):
    before, tensors = data_bytes(file), load_file(file)
    inspected(file, set=["modelspec.trigger_phrase=zorb, red", "modelspec.title=a=b"], remove=["ss_output_name"])
    assert data_bytes(file) == before
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        assert all(torch.equal(opened.get_tensor(key), tensor) for key, tensor in tensors.items())
    assert metadata["modelspec.trigger_phrase"] == "zorb, red" and metadata["modelspec.title"] == "a=b"
    assert "ss_output_name" not in metadata and "ss_tag_frequency" in metadata


@pytest.mark.parametrize(
    "options", [{"set": ["ss_output_name=another"]}, {"remove": ["ss_tag_frequency"]}, {"set": ["modelspec.title=A"]}]
)
def test_an_edit_leaves_no_stale_hash(tmp_path, options):
    # The legacy hash covers bytes after the first MiB, at places that the ss_ metadata move.
    tensors = {f"{M00}.diff": draw(600, 600)}
    metadata = {"ss_output_name": "zorb", "ss_tag_frequency": "{}"}
    write_lora(tmp_path / "a.safetensors", tensors, metadata)
    report, _ = inspected(tmp_path / "a.safetensors", **options)
    own = {key: value for key, value in report["metadata"].items() if key.startswith("ss_")}
    save_file(tensors, str(tmp_path / "plain.safetensors"), own)
    part = (tmp_path / "plain.safetensors").read_bytes()[0x100000:0x110000]
    assert len(part) == 0x10000
    assert report["metadata"]["sshs_legacy_hash"] == hashlib.sha256(part).hexdigest()[:8]


def test_a_picture_of_too_many_pixels_is_refused(file, tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(StudioError) as caught:
        inspected(file, thumbnail=tmp_path / "big.png")
    assert caught.value.field == "thumbnail"


def test_a_thumbnail_is_a_small_jpeg_in_the_metadata(file, tmp_path):
    Image.new("RGBA", (900, 300), "red").save(tmp_path / "big.png")
    report, _ = inspected(file, thumbnail=tmp_path / "big.png")
    head, data = report["metadata"]["modelspec.thumbnail"].split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/jpeg;base64" and picture.format == "JPEG" and picture.size == (256, 85)


@pytest.mark.parametrize(
    "options, field",
    [({"set": ["title"]}, "set"), ({"remove": ["nothing"]}, "remove"), ({"thumbnail": "nothing.png"}, "thumbnail")],
)
def test_a_wrong_edit_changes_nothing(file, options, field):
    before = file.read_bytes()
    with pytest.raises(StudioError) as caught:
        inspected(file, **options)
    assert caught.value.field == field and file.read_bytes() == before


def test_a_file_that_is_no_lora_is_refused(tmp_path):
    save_file({"a.b": draw(2, 2)}, str(tmp_path / "x.safetensors"))
    with pytest.raises(StudioError):
        inspected(tmp_path / "x.safetensors", set=["a=b"])
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert not opened.metadata()
