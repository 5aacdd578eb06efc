"""Pictures of formats that training does not read are saved as ones that it does."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lib_lora.dataset.picture_files import convert_files
from tiny_dataset import content, noise, pixels


def test_pictures_of_other_formats_become_png_or_jpg_as_they_are(collection, folder):
    grey = np.random.default_rng(1).integers(0, 65536, (8, 9)).astype(np.uint16)
    Image.fromarray(grey).save(folder / "grey.tif")
    noise(9, 8, 1).save(folder / "colour.tiff")
    noise(9, 8, 2).save(folder / "photo.jfif", "JPEG", quality=50)
    noise(9, 8, 3).convert("P").save(folder / "still.gif")
    noise(9, 8, 4).save(folder / "moving.gif", save_all=True, append_images=[noise(9, 8, 5)])
    noise(9, 8, 6).save(folder / "a.tif")  # there is an a.png
    Image.fromarray(grey.astype(">u2")).save(folder / "other_end.tif")
    Image.fromarray(grey).save(folder / "grey_turned.tif", tiffinfo={0x0112: 6})
    noise(9, 8, 7).save(folder / "turned.tif", tiffinfo={0x0112: 6})
    (folder / "broken.tga").write_bytes(b"no picture")
    before = content(folder)
    others = sorted(name for name in before if name not in ("a.png", "a.txt"))
    done = convert_files(collection, others)
    assert {name for name, _ in done.conflicts} == {"moving.gif", "a.tif", "broken.tga", "grey_turned.tif"}
    assert np.array_equal(pixels(folder / "grey.png"), grey)
    assert np.array_equal(pixels(folder / "other_end.png"), grey)
    assert np.array_equal(pixels(folder / "turned.png"), np.rot90(np.asarray(noise(9, 8, 7)), -1))
    assert np.array_equal(pixels(folder / "colour.png"), np.asarray(noise(9, 8, 1)))
    assert (folder / "photo.jpg").read_bytes() == before["photo.jfif"]
    with Image.open(folder / "still.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(noise(9, 8, 3).convert("P").convert("RGB")))
    assert not (folder / "grey.tif").exists()
    collection.undo()
    assert content(folder) == before
