"""New pictures of old ones: beside them or in their place, with captions and masks, and back again."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping, options_of
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Collection
from lib_lora.dataset.images import fit_to_bucket, load_image
from lib_lora.dataset.picture_tools import (
    TOOLS,
    Crop,
    CropToBucket,
    Flip,
    Resize,
    Rgb,
    SmartCrop,
    Split,
    Upright,
    parse_aspect,
    suggest_box,
    use_tool,
)
from lib_lora.dataset.plan import make_buckets, select_bucket
from lib_lora.dataset.records import scan
from tiny_dataset import content, noise, pixels


def id_of(collection: Collection, name: str = "a.png") -> int:
    return collection.item_named(name).id


def test_the_new_picture_lies_beside_the_old_one_with_the_whole_caption_file(collection, folder):
    before = content(folder)
    done = use_tool(collection, [id_of(collection)], Crop(left=10, top=5, right=50, bottom=35))
    after = content(folder)
    assert after.items() >= before.items()
    assert set(after) - set(before) == {"a-crop.png", "a-crop.txt"}
    assert after["a-crop.txt"] == before["a.txt"]
    assert np.array_equal(pixels(folder / "a-crop.png"), pixels(folder / "a.png")[5:35, 10:50])
    assert [collection.item(id).name for id in done.added] == ["a-crop.png"]


def test_a_name_that_is_taken_is_counted_on(collection, folder):
    (folder / "A-CROP.txt").write_text("somebody else's")
    for _ in range(2):
        use_tool(collection, [id_of(collection)], Crop(right=20, bottom=20))
    assert {path.name for path in folder.glob("a-crop*.png")} == {"a-crop-2.png", "a-crop-3.png"}
    assert (folder / "A-CROP.txt").read_text() == "somebody else's"


def test_over_the_original_when_asked_for_and_the_original_is_in_the_trash(collection, folder):
    before = content(folder)
    use_tool(collection, [id_of(collection)], Flip(), over=True)
    after = content(folder)
    assert set(after) == set(before) and after["a.txt"] == before["a.txt"]
    assert np.array_equal(pixels(folder / "a.png")[:, ::-1], np.asarray(noise(60, 40)))
    (thrown,) = (folder / ".lora_studio" / "trash").rglob("a.png")
    assert thrown.read_bytes() == before["a.png"]


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("tool", [Crop(right=30, bottom=30), Flip(), Split(aspect=1, overlap=0), Resize(px=20)])
def test_every_use_is_one_step_of_undo_and_redo(collection, folder, tool, over):
    noise(60, 60, 3).save(folder / "b.png")
    (folder / "masks").mkdir()
    Image.new("L", (60, 40), 128).save(folder / "masks" / "a.png")
    collection.refresh()
    before = content(folder)
    use_tool(collection, [id_of(collection)], tool, over=over)
    after = content(folder)
    assert after != before
    collection.undo()
    assert content(folder) == before
    collection.redo()
    assert content(folder) == after
    assert len(collection.history()) == 1


def test_the_mask_is_treated_as_the_picture_is(collection, folder):
    (folder / "masks").mkdir()
    mask = np.random.default_rng(5).integers(0, 256, (40, 60), dtype=np.uint8)
    Image.fromarray(mask).save(folder / "masks" / "a.png")
    use_tool(collection, [id_of(collection)], Crop(left=10, top=5, right=50, bottom=35))
    use_tool(collection, [id_of(collection)], Flip(), over=True)
    assert np.array_equal(pixels(folder / "masks" / "a-crop.png"), mask[5:35, 10:50])
    assert np.array_equal(pixels(folder / "masks" / "a.png"), mask[:, ::-1])
    assert {record.path.name: record.mask.name for record in scan(folder).records} == {
        "a.png": "a.png",
        "a-crop.png": "a-crop.png",
    }


def test_a_mask_of_another_size_stops_the_tool(collection, folder):
    (folder / "masks").mkdir()
    Image.new("L", (10, 10)).save(folder / "masks" / "a.png")
    before = content(folder)
    done = use_tool(collection, [id_of(collection)], Flip())
    assert done.entry is None and "another size" in done.conflicts[0][1]
    assert content(folder) == before


def test_a_split_picture_makes_parts_with_captions_and_over_it_leaves_nothing_of_the_old(collection, folder):
    noise(40, 130, 2).save(folder / "tall.png")
    (folder / "tall.txt").write_text("zorb, tall")
    collection.refresh()
    done = use_tool(collection, collection.ids, Split(aspect=1.5, overlap=0.1), over=True)
    names = {f"tall-part-{number}{ending}" for number in (1, 2, 3) for ending in (".png", ".txt")}
    assert set(content(folder)) == {"a.png", "a.txt", *names}
    parts = [pixels(folder / f"tall-part-{number}.png") for number in (1, 2, 3)]
    assert {part.shape for part in parts} == {(60, 40, 3)}
    assert np.array_equal(parts[0], np.asarray(noise(40, 130, 2))[:60])
    assert np.array_equal(parts[2], np.asarray(noise(40, 130, 2))[-60:])
    assert [(id, "longer" in why) for id, why in done.conflicts] == [(id_of(collection), True)]


def test_a_turned_picture_is_seen_upright_and_written_without_a_turn(collection, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(60, 40, 4).save(folder / "turned.png", exif=exif)
    collection.refresh()
    up = np.asarray(load_image(folder / "turned.png"))
    assert up.shape == (60, 40, 3)
    use_tool(collection, [id_of(collection, "turned.png")], Crop(left=0, top=0, right=40, bottom=20))
    use_tool(collection, [id_of(collection, "turned.png")], Upright(), over=True)
    for name, wanted in (("turned-crop.png", up[:20]), ("turned.png", up)):
        assert np.array_equal(pixels(folder / name), wanted)
        assert np.array_equal(np.asarray(load_image(folder / name)), wanted)


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".webp", ".png", ".bmp"])
def test_format_extension_and_colour_profile_stay(collection, folder, ending):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {} if ending == ".bmp" else {"icc_profile": profile}
    smooth = noise(8, 8, 6).resize((64, 48), Image.Resampling.BICUBIC)
    smooth.save(folder / f"b{ending}", **options)
    collection.refresh()
    use_tool(collection, [id_of(collection, f"b{ending}")], Flip())
    with Image.open(folder / f"b-flip{ending}") as image, Image.open(folder / f"b{ending}") as old:
        assert image.format == old.format
        assert image.info.get("icc_profile") == options.get("icc_profile")
        assert np.abs(np.asarray(image).astype(int)[:, ::-1] - np.asarray(old)).mean() < 3


def test_a_lossless_webp_stays_lossless(collection, folder):
    noise(30, 20, 7).save(folder / "b.webp", lossless=True, icc_profile=bytes(1001))  # an odd number of bytes before it
    collection.refresh()
    use_tool(collection, [id_of(collection, "b.webp")], Flip())
    assert np.array_equal(pixels(folder / "b-flip.webp")[:, ::-1], np.asarray(noise(30, 20, 7)))


def test_transparency_stays(collection, folder):
    see_through = noise(30, 20, 8).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize((30, 20)))
    see_through.save(folder / "b.png")
    collection.refresh()
    use_tool(collection, [id_of(collection, "b.png")], Crop(right=10, bottom=20))
    assert np.array_equal(pixels(folder / "b-crop.png"), np.asarray(see_through)[:, :10])


def test_a_png_called_jpg_becomes_a_png_by_name(collection, folder):
    data = io.BytesIO()
    noise(30, 20).save(data, "PNG")
    (folder / "b.jpg").write_bytes(data.getvalue())
    collection.refresh()
    use_tool(collection, [id_of(collection, "b.jpg")], Flip())
    assert np.array_equal(pixels(folder / "b-flip.png")[:, ::-1], np.asarray(noise(30, 20)))


def test_what_no_tool_can_treat_is_named_and_the_rest_is_done(collection, folder):
    (folder / "broken.png").write_bytes(b"no picture")
    noise(8, 8).save(folder / "moving.png", save_all=True, append_images=[noise(8, 8, 1)])
    collection.refresh()
    done = use_tool(collection, collection.ids, Flip())
    names = {collection.item(id).name: why for id, why in done.conflicts}
    assert set(names) == {"broken.png", "moving.png"}
    assert "animated" in names["moving.png"]
    assert [collection.item(id).name for id in done.added] == ["a-flip.png"]


def test_cropped_to_its_bucket_a_picture_is_what_training_sees(collection, folder):
    noise(300, 200, 9).save(folder / "b.png")
    collection.refresh()
    tool = CropToBucket(place="middle", resolution="128", min_bucket_reso=64, max_bucket_reso=256)
    use_tool(collection, [id_of(collection, "b.png")], tool)
    bucket = select_bucket(300, 200, make_buckets((128, 128), 64, 256, 64))
    assert np.array_equal(pixels(folder / "b-bucket.png"), fit_to_bucket(noise(300, 200, 9), bucket).pixels)
    (record,) = [record for record in scan(folder).records if record.path.name == "b-bucket.png"]
    assert (record.width_px, record.height_px) == bucket.resolution


def test_a_smart_crop_has_the_size_of_its_bucket_and_the_figure_in_it(collection, folder):
    picture = Image.new("RGB", (400, 100), "grey")
    picture.paste((255, 0, 0), (320, 20, 380, 80))
    picture.save(folder / "b.png")
    collection.refresh()
    left, top, right, bottom = suggest_box(folder / "b.png", 1)
    assert (top, bottom) == (0, 100) and left <= 320 and right >= 380
    use_tool(collection, [id_of(collection, "b.png")], SmartCrop(aspect="1:1"))
    assert pixels(folder / "b-crop.png").shape == (100, 100, 3)
    assert (pixels(folder / "b-crop.png") == (255, 0, 0)).all(axis=2).sum() == 3600


@pytest.mark.parametrize(
    "tool, size",
    [
        (Resize(side="shortest", px=20), (30, 20)),
        (Resize(side="longest", px=30), (30, 20)),
        (Resize(side="width", px=120, enlarge=True), (120, 80)),
        (Resize(side="height", px=20), (30, 20)),
    ],
)
def test_a_resized_picture_keeps_its_shape(collection, folder, tool, size):
    use_tool(collection, [id_of(collection)], tool)
    with Image.open(folder / "a-resized.png") as image:
        assert image.size == size


def test_a_picture_is_enlarged_only_if_that_is_asked_for(collection):
    done = use_tool(collection, [id_of(collection)], Resize(px=1024))
    assert done.entry is None and "not larger" in done.conflicts[0][1]


def test_of_many_pictures_each_folder_is_listed_once(collection, folder, monkeypatch):
    for number in range(4):
        noise(30, 20, number).save(folder / f"{number}.png")
    collection.refresh()
    listed, original = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (listed.append(Path(path)), original(path))[1])
    done = use_tool(collection, collection.ids, Flip())
    assert len(done.added) == 5 and listed.count(folder) == 1


def test_a_name_that_is_taken_meanwhile_leaves_out_its_own_picture_only(collection, folder):
    noise(30, 20, 1).save(folder / "b.png")
    collection.refresh()
    a, b = id_of(collection), id_of(collection, "b.png")

    def meanwhile(done: int, total: int) -> None:
        (folder / "a-flip.txt").write_text("somebody else's")

    done = use_tool(collection, [a, b], Flip(), progress=meanwhile)
    assert [collection.item(id).name for id in done.added] == ["b-flip.png"]
    ((who, why),) = done.conflicts
    assert who == a and "a-flip.txt" in why
    assert (folder / "a-flip.txt").read_text() == "somebody else's" and not (folder / "a-flip.png").exists()
    assert done.what == "flip: 1 of 2 pictures"


def test_two_pictures_that_would_become_one_file_do_not(collection, folder):
    noise(30, 20, 1).save(folder / "a.jpg", "PNG")
    collection.refresh()
    done = use_tool(collection, [id_of(collection, "a.jpg"), id_of(collection)], Flip(), over=True)
    assert done.entry is None and [id for id, why in done.conflicts if "a.png" in why] == sorted(collection.ids)
    assert {path.name for path in folder.glob("a.*")} == {"a.png", "a.jpg", "a.txt"}


def test_to_the_buckets_shape_and_no_smaller(collection, folder):
    noise(600, 200, 4).save(folder / "wide.png")
    collection.refresh()
    id = id_of(collection, "wide.png")
    for place in ("middle", "smart"):
        tool = CropToBucket(resolution="96", min_bucket_reso=64, max_bucket_reso=128, place=place, scale=False)
        (new,) = use_tool(collection, [id], tool).added
        bucket = select_bucket(600, 200, tool.buckets()).resolution
        item = collection.item(new)
        assert item.height_px == 200 and item.width_px == pytest.approx(200 * bucket[0] / bucket[1], abs=1)


@pytest.mark.parametrize("mode, ending", [("CMYK", ".jpg"), ("RGBA", ".png"), ("I;16", ".png"), ("P", ".png")])
def test_rgb_is_what_training_sees_without_a_profile_of_other_colours(collection, folder, mode, ending):
    path = folder / f"odd{ending}"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if mode == "I;16":
        image = Image.fromarray((np.arange(40 * 60).reshape(40, 60) * 27).astype(np.uint16))
    else:
        image = noise(60, 40, 6).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.arange(2400).reshape(40, 60).astype(np.uint8)))
    image.save(path, icc_profile=profile)
    collection.refresh()
    (new,) = use_tool(collection, [id_of(collection, path.name)], Rgb()).added
    with Image.open(collection.item(new).path) as made:
        assert made.mode == "RGB" and ("icc_profile" in made.info) == (mode in ("RGBA", "P"))
    difference = np.asarray(load_image(path)).astype(int) - pixels(collection.item(new).path)
    assert np.abs(difference).mean() < (5 if ending == ".jpg" else 1e-9)


def test_a_stop_leaves_out_the_rest(collection, folder):
    for number in range(3):
        noise(20, 20, number).save(folder / f"b{number}.png")
    collection.refresh()
    control = Control()
    done = use_tool(collection, collection.ids, Flip(), control=control, progress=lambda done, total: control.stop())
    assert len(done.added) == 1


@pytest.mark.parametrize("name", TOOLS.names())
def test_every_tool_is_made_from_its_options_and_says_what_it_does(name):
    kind = TOOLS.get(name)
    assert kind.__doc__ and kind.suffix
    assert from_mapping(kind, {info.name: info.default for info in options_of(kind)}) == kind()


@pytest.mark.parametrize("text, aspect", [("2:3", 2 / 3), ("16/9", 16 / 9), ("1.5", 1.5)])
def test_shapes_are_read(text, aspect):
    assert parse_aspect(text) == pytest.approx(aspect)


@pytest.mark.parametrize("text", ["", "2:0", "a:b", "1:2:3", "-1", "100:1", "nan"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(StudioError, match="shape"):
        parse_aspect(text)
