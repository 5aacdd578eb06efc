"""Headers of real pictures, in every format that training reads."""

from __future__ import annotations

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.files.image_header import ImageHeader, read_header


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "RGB"),
        ("a.png", "RGBA"),
        ("a.png", "P"),
        ("a.png", "LA"),
        ("a.png", "1"),
        ("a.PNG", "L"),
        ("a.jpg", "RGB"),
        ("a.JPEG", "L"),
        ("a.jpeg", "CMYK"),
        ("a.bmp", "RGB"),
        ("a.webp", "RGB"),
    ],
)
def test_size_and_mode_of_every_format(tmp_path, name, mode):
    Image.new(mode, (31, 17)).save(tmp_path / name)
    assert read_header(tmp_path / name) == ImageHeader(31, 17, mode, animated=False)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_the_one_after_exif_rotation(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(tmp_path / name, exif=exif)
    header = read_header(tmp_path / name)
    assert (header.width_px, header.height_px) == ((20, 40) if orientation >= 5 else (40, 20))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x"])
def test_damaged_exif_does_not_spoil_a_picture(tmp_path, exif):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_header(tmp_path / "a.jpg").width_px == 40


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_an_animation_is_noticed(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert read_header(tmp_path / name).animated


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("how", [{}, {"lossless": True}, {"icc_profile": b"profile"}, {"exif": b"Exif\0\0nonsense"}])
@pytest.mark.parametrize("size", [(1, 1), (31, 700), (16383, 2)])
def test_a_webp_is_what_pillow_says_it_is(tmp_path, mode, how, size):
    Image.new(mode, size, 90).save(tmp_path / "a.webp", **how)
    with Image.open(tmp_path / "a.webp") as image:
        assert read_header(tmp_path / "a.webp") == ImageHeader(*image.size, image.mode, animated=False)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("left_bytes", [0, 11, 25, 29, -1])
def test_a_webp_that_is_cut_short_is_refused(tmp_path, lossless, left_bytes):
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.webp", lossless=lossless)
    data = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").write_bytes(data[:left_bytes])
    with pytest.raises(StudioError, match="cannot be read"):
        read_header(tmp_path / "a.webp")


def test_a_phones_double_picture_is_no_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert not read_header(tmp_path / "a.jpg").animated


def test_the_content_decides_not_the_extension(tmp_path):
    Image.new("RGB", (8, 9)).save(tmp_path / "a.png", "JPEG")
    assert read_header(tmp_path / "a.png").height_px == 9


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"GIF89a nonsense", "not a PNG"), (b"\x89PNG\r\n\x1a\n\0\0", "cannot"), (b"BM", "cannot")],
)
def test_what_is_no_picture_is_refused_with_file_and_reason(tmp_path, data, reason):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(StudioError, match=reason) as fault:
        read_header(path)
    assert fault.value.file == str(path)


def test_a_missing_picture_and_a_folder_are_refused(tmp_path):
    with pytest.raises(StudioError, match="does not exist"):
        read_header(tmp_path / "none.png")
    with pytest.raises(StudioError, match="folder"):
        read_header(tmp_path)


def test_pixels_are_not_decoded(tmp_path):
    path = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:100])
    assert read_header(path).width_px == 64
