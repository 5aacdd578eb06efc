import io
import struct

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_lora.base.errors import StudioError
from lib_lora.dataset.receive import add_picture

INFOTEXT = "zorb, (red:1.2) <lora:zorb:1>\nNegative prompt: bad\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"


def exif_comment(comment: bytes) -> bytes:
    """EXIF 2.32: a directory whose entry 0x8769 leads to another, whose entry 0x9286 is the comment."""
    outer = struct.pack(">HHHIII", 1, 0x8769, 4, 1, 26, 0)
    inner = struct.pack(">HHHIII", 1, 0x9286, 7, len(comment), 44, 0)
    return b"Exif\0\0" + b"MM\0*" + struct.pack(">I", 8) + outer + inner + comment


def picture(format: str, infotext: str | None = None) -> bytes:
    """A small picture with the WebUI's text in it, written as A1111 v1.10.1's save_image_with_geninfo does."""
    image, data, more = Image.new("RGB", (8, 8), "red"), io.BytesIO(), {}
    if infotext and format == "PNG":
        more["pnginfo"] = PngInfo()
        more["pnginfo"].add_text("parameters", infotext)
    elif infotext:
        more["exif"] = exif_comment(b"UNICODE\0" + infotext.encode("utf-16-be"))
    image.save(data, format, **more)
    return data.getvalue()


@pytest.mark.parametrize("format, ending", [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp")])
def test_the_prompt_in_a_picture_becomes_its_caption(tmp_path, format, ending):
    data = picture(format, INFOTEXT)
    path = add_picture(tmp_path, f"00012-7{ending}", data)
    assert path == tmp_path / f"00012-7{ending}"
    assert path.read_bytes() == data
    assert path.with_suffix(".txt").read_text("utf-8") == "zorb, red\n"


def test_a_caption_that_is_given_wins_and_an_empty_one_is_none(tmp_path):
    assert (
        add_picture(tmp_path, "a.png", picture("PNG", INFOTEXT), " mine ").with_suffix(".txt").read_text() == "mine\n"
    )
    assert not add_picture(tmp_path, "b.png", picture("PNG", INFOTEXT), "").with_suffix(".txt").exists()
    assert not add_picture(tmp_path, "c.png", picture("PNG")).with_suffix(".txt").exists()


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "A.jpg").write_bytes(b"mine")
    (tmp_path / "a-2.txt").write_bytes(b"a caption alone")
    path = add_picture(tmp_path, "a.png", picture("PNG"))
    assert path.name == "a-3.png"
    assert (tmp_path / "A.jpg").read_bytes() == b"mine"


def test_the_ending_is_that_of_the_format(tmp_path):
    assert add_picture(tmp_path, "a.avif", picture("JPEG")).name == "a.jpg"


@pytest.mark.parametrize(
    "name, data, field",
    [
        ("a.png", b"no picture", "data"),
        ("a.png", picture("PNG")[:50], "data"),
        ("a.gif", picture("GIF"), "data"),
        ("..\\a.png", picture("PNG"), "name"),
        ("CON.png", picture("PNG"), "name"),
    ],
    ids=["no picture", "cut short", "GIF", "upwards", "reserved"],
)
def test_what_is_no_picture_or_no_name_is_refused_and_leaves_nothing(tmp_path, name, data, field):
    with pytest.raises(StudioError) as refused:
        add_picture(tmp_path, name, data)
    assert refused.value.field == field
    assert not list(tmp_path.iterdir())


def test_a_name_with_folders_is_its_last_part(tmp_path):
    assert add_picture(tmp_path, "../../etc/a.png", picture("PNG")) == tmp_path / "a.png"
