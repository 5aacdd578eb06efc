"""What pixels say of a picture, and that each is decoded once."""

from __future__ import annotations

import sys

import imagehash
import numpy as np
import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control
from lib_lora.dataset import picture_facts
from lib_lora.dataset.images import load_image
from lib_lora.dataset.picture_facts import FactStore, facts_of, perceptual_hash, read_facts


def clouds(seed: int, size=(640, 480)) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def apart(a: int, b: int) -> int:
    return bin(a ^ b).count("1")


def test_the_hash_is_the_librarys():
    image = clouds(1)
    assert f"{perceptual_hash(image):016x}" == str(imagehash.phash(image))


@pytest.mark.parametrize(
    "name, options",
    [("a.jpg", {"quality": 90}), ("a.jpg", {"quality": 40}), ("a.webp", {"quality": 60}), ("a.bmp", {})],
)
def test_other_formats_and_sizes_of_a_picture_look_alike(tmp_path, name, options):
    clouds(1).save(tmp_path / "whole.png")
    clouds(1).resize((1601, 1203), Image.Resampling.LANCZOS).save(tmp_path / name, **options)
    whole, other = (read_facts(tmp_path / file).perceptual_hash for file in ("whole.png", name))
    assert apart(whole, other) <= 4


def test_other_pictures_do_not_look_alike():
    hashes = [perceptual_hash(clouds(seed)) for seed in range(40)]
    assert min(apart(a, b) for place, a in enumerate(hashes) for b in hashes[:place]) > 10


def test_a_turned_picture_is_compared_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    clouds(1).save(tmp_path / "up.png")
    clouds(1).transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = read_facts(tmp_path / "turned.jpg")
    assert turned.orientation == 8
    assert apart(turned.perceptual_hash, read_facts(tmp_path / "up.png").perceptual_hash) <= 4


def test_what_cannot_be_decoded_is_said_and_not_raised(tmp_path):
    path = tmp_path / "a.png"
    clouds(1).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    assert "damaged" in read_facts(path).problem
    assert read_facts(tmp_path / "none.png").problem == "the picture cannot be read: the file does not exist"


def test_facts_are_kept_as_long_as_the_file_is_as_it_was(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        clouds(number, (64, 64)).save(path)
    file = tmp_path / ".lora_studio" / "picture_facts.json"
    first = facts_of(paths, FactStore(file, tmp_path))
    clouds(9, (80, 64)).save(paths[1])
    read = []
    original = picture_facts.read_facts
    monkeypatch.setattr(picture_facts, "read_facts", lambda path: (read.append(path), original(path))[1])
    second = facts_of(paths, FactStore(file, tmp_path))
    assert read == [paths[1]]
    assert (second[0], second[2]) == (first[0], first[2]) and second[1] != first[1]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"version": 0, "pictures": {}}', b'{"version": 1, "pictures": {"0.png": [1]}}']
)
def test_a_damaged_store_is_made_anew(tmp_path, content):
    clouds(0, (64, 64)).save(tmp_path / "0.png")
    file = tmp_path / "facts.json"
    file.write_bytes(content)
    (facts,) = facts_of([tmp_path / "0.png"], FactStore(file, tmp_path))
    assert facts.problem is None
    assert FactStore(file, tmp_path).get(tmp_path / "0.png", picture_facts._mark(tmp_path / "0.png")) == facts


def test_without_a_file_nothing_is_written(tmp_path):
    clouds(0, (64, 64)).save(tmp_path / "0.png")
    facts_of([tmp_path / "0.png"], FactStore(None, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]


def test_a_stop_keeps_what_was_read(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(80)]
    for number, path in enumerate(paths):
        clouds(number, (32, 32)).save(path)
    control, file = Control(), tmp_path / "facts.json"

    def stop(done: int, total: int) -> None:
        if done == 5:
            control.stop()

    assert facts_of(paths, FactStore(file, tmp_path), progress=stop, control=control) is None
    store = FactStore(file, tmp_path)
    assert sum(store.get(path, picture_facts._mark(path)) is not None for path in paths) == 5


def test_a_jpeg_is_read_small_where_that_suffices(tmp_path):
    clouds(1, (1600, 1200)).save(tmp_path / "a.jpg")
    assert load_image(tmp_path / "a.jpg", at_least=(200, 150)).size == (200, 150)
    assert load_image(tmp_path / "a.jpg").size == (1600, 1200)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    clouds(0).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(StudioError, match=r"a package is missing: ImageHash.*pip install"):
        facts_of([tmp_path / "a.png"], FactStore(None, tmp_path))


def test_colours_are_the_means_of_sixteen_fields(tmp_path):
    pixels = np.asarray(clouds(3, (64, 128))).astype(float)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    means = pixels.reshape(4, 32, 4, 16, 3).mean((1, 3)).round().reshape(-1)
    found = np.array(list(bytes.fromhex(read_facts(tmp_path / "a.png").colours)))
    assert np.abs(found - means).max() <= 1
