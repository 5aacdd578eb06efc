"""The health report: every planted fault is found, on the planted pictures, and a sound dataset has none."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.options import options_of
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Collection
from lib_lora.dataset.health import EditFix, Finding, HealthReport, HealthSettings, Watch, apply_fix, health
from lib_lora.dataset.health.captions import without_weights
from lib_lora.dataset.health.checks import CHECKS
from lib_lora.dataset.health.spelling import misspelt
from lib_lora.dataset.plan import build_plan
from lib_lora.dataset.records import scan
from lib_lora.training.config import TrainConfig

SMALL = {"resolution": "96", "min_bucket_reso": 64, "max_bucket_reso": 192, "bucket_reso_steps": 8}
POSES = ("standing", "sitting", "running")
CLOTHES = ("red dress", "white shirt", "blue coat", "straw hat")
PLACES = ("outdoors", "indoors", "simple background")
LOOKS = ("smile", "open mouth", "looking at viewer", "frown")
TREES = ("oak", "birch", "willow", "pine")
SKIES = ("cloudy sky", "sunset", "rain", "fog")


def draw(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Coloured clouds, other ones for each seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Two concepts of twelve and eight pictures, with regularisation pictures, a mask and sentences."""
    root = tmp_path_factory.mktemp("sound") / "pictures"
    for index in range(12):
        tags = ["zorb", "1girl", "solo", POSES[index % 3], CLOTHES[index % 4], PLACES[(index // 2) % 3]]
        tags.append(LOOKS[(index // 3) % 4])
        save(root / "2_zorb" / f"{index}.png", draw(index, (96, 96) if index % 2 else (80, 112)), ", ".join(tags))
    for index in range(8):
        tags = ["grove", TREES[index % 4], SKIES[(index // 2) % 4]]
        if index < 2:
            tags.append(f"A quiet wood with a path number {index} that leads down to a lake, seen in the evening.")
        save(root / "3_grove" / f"{index}.jpg", draw(100 + index, (96, 96)), ", ".join(tags))
    for index in range(3):
        save(root / "reg" / "1_girl" / f"{index}.png", draw(200 + index), None)
    (root / "2_zorb" / "masks").mkdir()
    Image.new("L", (80, 112), 255).save(root / "2_zorb" / "masks" / "0.png")
    return root


def save(path: Path, image: Image.Image, caption: str | None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, {".jpg": "JPEG", ".Jpg": "JPEG"}.get(path.suffix), **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


@dataclass
class Planted:
    """What a row plants: pictures that must be named, files that must be, and kinds that come along by nature."""

    items: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    also: set[str] = field(default_factory=set)


def caption(root: Path, name: str) -> str:
    return (root / name).with_suffix(".txt").read_text(encoding="utf-8")


def write(root: Path, name: str, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    (root / name).with_suffix(".txt").write_bytes(data)


def add_tag(root: Path, tag: str, *names: str) -> Planted:
    for name in names:
        write(root, name, f"{caption(root, name)}, {tag}")
    return Planted(list(names))


def zorbs(*numbers: int) -> list[str]:
    return [f"2_zorb/{number}.png" for number in numbers]


def everything() -> list[str]:
    return [*zorbs(*range(12)), *(f"3_grove/{number}.jpg" for number in range(8))]


def orphan(root: Path) -> Planted:
    (root / "2_zorb" / "nobody.txt").write_text("zorb, 1girl", encoding="utf-8")
    return Planted(files=["2_zorb/nobody.txt"])


def broken_header(root: Path) -> Planted:
    (root / "2_zorb" / "3.png").write_bytes(b"no picture")
    return Planted(zorbs(3))


def cut_short(root: Path) -> Planted:
    path = root / "3_grove" / "4.jpg"
    path.write_bytes(path.read_bytes()[:700])
    return Planted(["3_grove/4.jpg"])


def cut_short_in_other_formats(root: Path) -> Planted:
    for number, suffix in ((3, ".png"), (4, ".webp"), (5, ".bmp")):
        (root / "2_zorb" / f"{number}.png").unlink()
        path = root / "2_zorb" / f"{number}{suffix}"
        draw(number).save(path)
        path.write_bytes(path.read_bytes()[:-200])
    return Planted(["2_zorb/3.png", "2_zorb/4.webp", "2_zorb/5.bmp"])


def other_mask(root: Path) -> Planted:
    Image.new("L", (50, 50)).save(root / "2_zorb" / "masks" / "2.png")
    (root / "2_zorb" / "masks" / "4.png").write_bytes(b"no picture")
    return Planted(zorbs(2, 4))


def mixed_case(root: Path) -> Planted:
    (root / "3_grove" / "2.jpg").rename(root / "3_grove" / "2.Jpg")
    (root / "3_grove" / "3.jpg").rename(root / "3_grove" / "3.JPG")  # known to all
    return Planted(["3_grove/2.Jpg"])


def gif(root: Path) -> Planted:
    draw(50).save(root / "2_zorb" / "still.gif")
    return Planted(files=["2_zorb/still.gif"])


def no_repeats(root: Path) -> Planted:
    save(root / "extra" / "a.png", draw(51), "zorb, 1girl, standing, smile")
    save(root / "0_none" / "b.png", draw(52), "zorb, 1girl, sitting, smile")
    save(root / "loose.png", draw(53), "zorb, 1girl, running, smile")
    return Planted(["0_none/b.png", "extra/a.png", "loose.png"])


def shared_stem(root: Path) -> Planted:
    draw(54).save(root / "2_zorb" / "5.jpg")
    return Planted(["2_zorb/5.jpg", "2_zorb/5.png"])


def case_only(root: Path) -> Planted:
    save(root / "2_zorb" / "Wave.png", draw(55), "zorb, 1girl, solo, standing, smile")
    save(root / "2_zorb" / "wave.png", draw(56), "zorb, 1girl, solo, sitting, frown")
    return Planted(["2_zorb/Wave.png", "2_zorb/wave.png"])


def latin(root: Path) -> Planted:
    write(root, "2_zorb/2.png", "zorb, 1girl, caf\u00e9, smile".encode("latin-1"))
    return Planted(zorbs(2))


def empty(root: Path) -> Planted:
    write(root, "2_zorb/2.png", " \r\n ")
    return Planted(zorbs(2))


def missing(root: Path) -> Planted:
    (root / "2_zorb" / "2.txt").unlink()
    return Planted(zorbs(2))


def lines(root: Path) -> Planted:
    write(root, "2_zorb/2.png", f"{caption(root, '2_zorb/2.png')}\r\n\r\nsecond line,\r\nthird line\r\n")
    return Planted(zorbs(2))


def same_text(root: Path) -> Planted:
    for name in zorbs(1, 4, 7):
        write(root, name, "zorb, 1girl, standing, smile")
    return Planted(zorbs(1, 4, 7), also={"one_off"})


def long_text(root: Path) -> Planted:
    write(root, "2_zorb/1.png", caption(root, "2_zorb/1.png") + ", outdoors, smile" * 40)
    return Planted(zorbs(1), also={"repeated_tag"})


def weights(root: Path) -> Planted:
    new = {1: "(straw hat:1.2)", 4: "<lora:zorb:0.8>", 7: "((standing))"}
    for number, text in new.items():
        add_tag(root, text, *zorbs(number))
    add_tag(root, "saber (fate)", *zorbs(0, 1))  # a name, as it should be
    add_tag(root, ":), (o)_(o)", *zorbs(2, 3))
    return Planted(zorbs(1, 4, 7), also={"written_differently", "repeated_tag", "one_off"})


def escaped(root: Path) -> Planted:
    return add_tag(root, r"saber \(fate\)", *zorbs(3, 8))


def not_called(root: Path) -> Planted:
    write(root, "2_zorb/6.png", caption(root, "2_zorb/6.png").replace("zorb, ", ""))
    return Planted(zorbs(6))


def not_first(root: Path) -> Planted:
    write(root, "2_zorb/6.png", "1girl, zorb, solo, standing, smile")
    return Planted(zorbs(6))


def twice(root: Path) -> Planted:
    return add_tag(root, "zorb", *zorbs(6))


def two_hair_colours(root: Path) -> Planted:
    add_tag(root, "red hair, blonde hair", *zorbs(0, 1))
    add_tag(root, "red hair, blonde hair, multicolored hair", *zorbs(2, 3))  # may be
    for name in zorbs(4, 5):  # of two people
        write(root, name, caption(root, name).replace("1girl, solo", "2girls") + ", red hair, blonde hair")
    return Planted(zorbs(0, 1))


def two_eye_colours(root: Path) -> Planted:
    add_tag(root, "red eyes, blue eyes", *zorbs(0, 1))
    add_tag(root, "red eyes, blue eyes, heterochromia", *zorbs(2, 3))
    return Planted(zorbs(0, 1))


def two_places(root: Path) -> Planted:
    add_tag(root, "day, night", "3_grove/2.jpg", "3_grove/3.jpg")
    return Planted(["3_grove/2.jpg", "3_grove/3.jpg"])


def needless(root: Path) -> Planted:
    return add_tag(root, "boots, red footwear, red boots", *zorbs(0, 5))


def tag_twice(root: Path) -> Planted:
    tags = caption(root, "2_zorb/9.png").split(", ")
    return add_tag(root, tags[4], *zorbs(9))


def eyes(root: Path) -> Planted:
    add_tag(root, "red eyes", *zorbs(11))  # one of another colour is none to prune
    add_tag(root, "red eyes", *zorbs(10))
    return add_tag(root, "blue eyes", *zorbs(*range(8)))


def on_most(root: Path) -> Planted:
    return add_tag(root, "film grain", *everything()[:17])


def on_all(root: Path) -> Planted:
    return add_tag(root, "film grain", *everything())


def no_poses(root: Path) -> Planted:
    for name in zorbs(*range(12)):
        write(root, name, ", ".join(tag for tag in caption(root, name).split(", ") if tag not in POSES))
    return Planted(zorbs(*range(12)), also={"same_caption"})


def written(root: Path) -> Planted:
    add_tag(root, "long sleeves", *zorbs(0, 1, 2))
    add_tag(root, "long_sleeves", *zorbs(3))
    add_tag(root, "Long sleeves", *zorbs(4))
    return Planted(zorbs(3, 4))


def slip(root: Path) -> Planted:
    add_tag(root, "serious face", *zorbs(0, 1, 2, 3, 4))
    add_tag(root, "seriuos face", *zorbs(8))
    return Planted(zorbs(8))


def once(root: Path) -> Planted:
    return add_tag(root, "lighthouse", *zorbs(7))


def booru(root: Path) -> Planted:
    add_tag(root, "translation request", *zorbs(7))
    return Planted([*zorbs(7), *add_tag(root, "commentary_request, absurdres", "3_grove/5.jpg").items])


def copied(root: Path) -> Planted:
    shutil.copy(root / "2_zorb" / "3.png", root / "2_zorb" / "again.png")
    write(root, "2_zorb/again.png", "zorb, 1girl, solo, standing, smile")
    return Planted(["2_zorb/3.png", "2_zorb/again.png"])


def alike(root: Path) -> Planted:
    picture = Image.open(root / "2_zorb" / "3.png").resize((192, 192), Image.Resampling.LANCZOS)
    save(root / "2_zorb" / "again.jpg", picture, "zorb, 1girl, solo, standing, smile", quality=60)
    return Planted(["2_zorb/3.png", "2_zorb/again.jpg"])


def also_regularisation(root: Path) -> Planted:
    shutil.copy(root / "2_zorb" / "3.png", root / "reg" / "1_girl" / "b.png")
    return Planted(["2_zorb/3.png", "reg/1_girl/b.png"])


def moving(root: Path) -> Planted:
    draw(3).save(root / "2_zorb" / "3.png", save_all=True, append_images=[draw(60), draw(61)])
    return Planted(zorbs(3))


def turned(root: Path) -> Planted:
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(101).save(root / "3_grove" / "1.jpg", exif=exif)
    return Planted(["3_grove/1.jpg"])


def see_through(root: Path) -> Planted:
    opaque = draw(5).convert("RGBA")
    opaque.save(root / "2_zorb" / "5.png")  # an alpha channel that hides nothing is none to speak of
    opaque.paste((0, 0, 0, 0), (0, 0, 40, 40))
    opaque.save(root / "2_zorb" / "3.png")
    return Planted(zorbs(3))


def see_through_in_other_modes(root: Path) -> Planted:
    picture = draw(3).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 40, 40))
    picture.quantize(64).save(root / "2_zorb" / "3.png")
    picture.convert("LA").save(root / "2_zorb" / "5.png")
    return Planted(zorbs(3, 5))


def colours(root: Path) -> Planted:
    draw(102).convert("CMYK").save(root / "3_grove" / "2.jpg")
    grey = np.random.default_rng(9).integers(0, 65535, (9, 9)).astype(np.float32)
    grey = np.asarray(Image.fromarray(grey).resize((96, 96), Image.Resampling.BICUBIC)).clip(0, 65535)
    Image.fromarray(grey.astype(np.uint16)).save(root / "2_zorb" / "3.png")
    png_of_16_bits(root / "2_zorb" / "5.png")
    return Planted([*zorbs(3, 5), "3_grove/2.jpg"])


def png_of_16_bits(path: Path) -> None:
    """RGB, which Pillow cannot write."""
    import zlib

    pixels = np.asarray(draw(63)).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 96, 96, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def too_small(root: Path) -> Planted:
    draw(3, (48, 48)).save(root / "2_zorb" / "3.png")
    return Planted(zorbs(3))


def strip(root: Path) -> Planted:
    for number in (3, 5):
        draw(number, (64, 256)).save(root / "2_zorb" / f"{number}.png")
    return Planted(zorbs(3, 5), also={"heavy_crop"})


def cropped(root: Path) -> Planted:
    for number in (3, 5):
        draw(number, (232, 80)).save(root / "2_zorb" / f"{number}.png")
    return Planted(zorbs(3, 5))


def alone(root: Path) -> Planted:
    draw(3, (128, 72)).save(root / "2_zorb" / "3.png")
    return Planted(zorbs(3))


def fewer_than_a_batch(root: Path) -> Planted:
    for number in (1, 3, 5, 7):
        shutil.copy(root / "2_zorb" / f"{number}.txt", root / "2_zorb" / f"wide{number}.txt")
        draw(300 + number, (128, 72)).save(root / "2_zorb" / f"wide{number}.png")
    return Planted([f"2_zorb/wide{number}.png" for number in (1, 3, 5, 7)], also={"same_caption"})


def unbalanced(root: Path) -> Planted:
    (root / "3_grove").rename(root / "1_grove")
    return Planted([f"1_grove/{number}.jpg" for number in range(8)])


ROWS: list[tuple[str, Callable[[Path], Planted], dict]] = [
    ("orphan_caption", orphan, {}),
    ("unreadable", broken_header, {}),
    ("unreadable", cut_short, {}),
    ("unreadable", cut_short_in_other_formats, {}),
    ("mixed_case_extension", mixed_case, {}),
    ("mask_size", other_mask, {}),
    ("other_format", gif, {}),
    ("folder_name", no_repeats, {}),
    ("same_stem", shared_stem, {}),
    ("same_but_case", case_only, {}),
    ("caption_encoding", latin, {}),
    ("caption_empty", empty, {}),
    ("caption_missing", missing, {}),
    ("caption_lines", lines, {}),
    ("same_caption", same_text, {}),
    ("too_many_tokens", long_text, {}),
    ("too_many_tokens", long_text, {"max_token_length": 150}),
    ("weight_syntax", weights, {}),
    ("escaped_brackets", escaped, {}),
    ("activation_missing", not_called, {}),
    ("activation_missing", not_called, {"activation_tag": None}),
    ("activation_not_first", not_first, {}),
    ("activation_repeated", twice, {}),
    ("contradiction", two_hair_colours, {}),
    ("contradiction", two_eye_colours, {}),
    ("contradiction", two_places, {}),
    ("subsumed", needless, {}),
    ("repeated_tag", tag_twice, {}),
    ("prune_trait", eyes, {}),
    ("tag_on_most", on_most, {}),
    ("tag_never_off", on_all, {}),
    ("no_pose", no_poses, {}),
    ("written_differently", written, {}),
    ("misspelt", slip, {}),
    ("one_off", once, {}),
    ("metadata_tag", booru, {}),
    ("exact_duplicate", copied, {}),
    ("near_duplicate", alike, {}),
    ("training_and_regularisation", also_regularisation, {}),
    ("animated", moving, {}),
    ("rotated", turned, {}),
    ("transparent", see_through, {}),
    ("transparent", see_through_in_other_modes, {}),
    ("colours", colours, {}),
    ("enlarged", too_small, {}),
    ("extreme_aspect", strip, {}),
    ("heavy_crop", cropped, {}),
    ("thin_bucket", alone, {}),
    ("thin_bucket", fewer_than_a_batch, {"train_batch_size": 9}),
    ("balance", unbalanced, {}),
]


# Of these a person has to decide.
NO_FIX = {
    "caption_missing", "same_caption", "contradiction", "no_pose", "animated", "enlarged", "thin_bucket", "balance",
}  # fmt: skip


def content(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and ".lora_studio" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def words(text: str) -> int:
    return len(text.replace(",", " ,").split())


def report_on(root: Path, **values) -> tuple[HealthReport, dict[int, str]]:
    settings = HealthSettings(**{**SMALL, **values})
    with Collection.open(root) as collection:
        collection.count_tokens = words
        names = {item.id: item.name for item in collection.items}
        return health(collection, settings), names


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "pictures"))


def test_a_sound_dataset_has_no_findings(copy):
    report, _ = report_on(copy)
    assert [finding.to_json() for finding in report.findings] == []
    assert report.notes == ()


@pytest.mark.parametrize("kind, plant, values", ROWS, ids=[f"{kind}-{plant.__name__}" for kind, plant, _ in ROWS])
def test_a_planted_fault_is_found_and_nothing_else_and_a_fix_mends_it(copy, kind, plant, values):
    planted = plant(copy)
    before = content(copy)
    with Collection.open(copy) as collection:
        report, found = look(collection, kind, values)
        assert sorted(collection.item(id).name for finding in found for id in finding.items) == sorted(planted.items)
        assert sorted(name for finding in found for name in finding.files) == sorted(planted.files)
        other = [finding.to_json() for finding in report.findings if finding.kind not in {kind, *planted.also}]
        assert other == []
        assert [finding.fix is None for finding in found] == [kind in NO_FIX] * len(found)
        if kind not in NO_FIX:
            for finding in found:
                done = apply_fix(collection, finding)
                assert done.entry is not None and done.conflicts == []
            assert look(collection, kind, values)[1] == []
            assert len(collection.history()) == len(found)  # one step each
            for _ in found:
                collection.undo()
            assert content(copy) == before


def look(collection: Collection, kind: str, values: dict) -> tuple[HealthReport, list[Finding]]:
    collection.count_tokens = words
    report = health(collection, HealthSettings(**{**SMALL, **values}))
    return report, [finding for finding in report.findings if finding.kind == kind]


def test_where_a_person_must_decide_nothing_is_done(copy):
    two_places(copy)
    with Collection.open(copy) as collection:
        _, (finding,) = look(collection, "contradiction", {})
        with pytest.raises(StudioError, match="no fix"):
            apply_fix(collection, finding)


def test_every_check_has_a_row_and_stands_in_the_docs():
    assert {kind for kind, _, _ in ROWS} == set(CHECKS.names()) - {"plan"}
    docs = (Path(__file__).parents[2] / "docs" / "dataset.md").read_text(encoding="utf-8")
    assert [kind for kind in CHECKS if f"`{kind}`" not in docs] == []


# What a click does


def fixed(root: Path, kind: str) -> None:
    with Collection.open(root) as collection:
        for finding in health(collection, HealthSettings(**SMALL)).findings:
            if finding.kind == kind:
                apply_fix(collection, finding)


def test_the_activation_tag_comes_first_as_it_is_written_elsewhere(copy):
    not_called(copy)
    not_first(copy)
    fixed(copy, "activation_not_first")
    assert caption(copy, "2_zorb/6.png") == "zorb, 1girl, solo, standing, smile"


def test_lines_are_joined_with_one_comma_between(copy):
    first = caption(copy, "2_zorb/2.png")
    lines(copy)
    fixed(copy, "caption_lines")
    assert caption(copy, "2_zorb/2.png") == f"{first}, second line, third line"


def test_a_renamed_tag_is_not_there_twice_and_other_tags_stay_as_they_are(copy):
    written(copy)
    add_tag(copy, "long sleeves, smile, smile", *zorbs(3))
    fixed(copy, "written_differently")
    assert caption(copy, "2_zorb/3.png").endswith(", long sleeves, smile, smile")
    assert caption(copy, "2_zorb/3.png").count("sleeves") == 1
    assert caption(copy, "2_zorb/4.png").endswith(", long sleeves")


def test_a_caption_of_just_as_many_tokens_as_training_takes_is_none_too_long(copy):
    write(copy, "2_zorb/1.png", ", ".join(["zorb", "1girl", *(f"tag{number}" for number in range(36))]))
    assert words(caption(copy, "2_zorb/1.png")) == 75
    with Collection.open(copy) as collection:
        assert look(collection, "too_many_tokens", {})[1] == []
    add_tag(copy, "hat", *zorbs(1))
    with Collection.open(copy) as collection:
        assert len(look(collection, "too_many_tokens", {})[1]) == 1
        assert look(collection, "too_many_tokens", {"max_token_length": 150})[1] == []


def test_a_caption_in_utf_16_is_read_and_without_its_mark_it_is_told_and_left_to_a_person(copy):
    text = "zorb, 1girl, solo, standing, smile"
    write(copy, "2_zorb/1.png", text.encode("utf-16"))
    write(copy, "2_zorb/2.png", text.encode("utf-16-le"))
    with Collection.open(copy) as collection:
        _, (finding,) = look(collection, "caption_encoding", {})
        assert [collection.item(id).name for id in finding.items] == zorbs(2)
        assert finding.fix is None


def test_latin_1_becomes_utf_8(copy):
    latin(copy)
    fixed(copy, "caption_encoding")
    assert caption(copy, "2_zorb/2.png") == "zorb, 1girl, caf\u00e9, smile"


def test_of_pictures_that_look_alike_the_largest_stays(copy):
    alike(copy)
    fixed(copy, "near_duplicate")
    assert not (copy / "2_zorb" / "3.png").exists() and (copy / "2_zorb" / "again.jpg").exists()


def test_pictures_of_one_name_get_names_and_captions_of_their_own(copy):
    shared_stem(copy)
    text = caption(copy, "2_zorb/5.png")
    fixed(copy, "same_stem")
    pictures = sorted(path.name for path in (copy / "2_zorb").glob("5*"))
    assert pictures == ["5-2.png", "5-2.txt", "5.jpg", "5.txt"]
    assert caption(copy, "2_zorb/5-2.png") == caption(copy, "2_zorb/5.png") == text


def test_three_pictures_of_one_name_get_three(copy):
    shared_stem(copy)
    draw(57).save(copy / "2_zorb" / "5.webp")
    text = caption(copy, "2_zorb/5.png")
    fixed(copy, "same_stem")
    files = sorted(path.name for path in (copy / "2_zorb").glob("5*"))
    assert files == ["5-2.txt", "5-2.webp", "5-3.png", "5-3.txt", "5.jpg", "5.txt"]
    assert {caption(copy, f"2_zorb/{stem}.png") for stem in ("5", "5-2", "5-3")} == {text}


def test_a_turned_picture_is_written_upright(copy):
    turned(copy)
    with Image.open(copy / "3_grove" / "1.jpg") as image:
        stored = np.asarray(image).astype(int)
    fixed(copy, "rotated")
    with Image.open(copy / "3_grove" / "1.jpg") as image:
        assert not image.getexif().get(0x0112)
        assert np.abs(np.asarray(image).astype(int) - np.rot90(stored, -1)).mean() < 3
    assert caption(copy, "3_grove/1.jpg").startswith("grove")


def test_pictures_get_a_folder_that_is_shown_once_with_captions_and_masks(copy):
    no_repeats(copy)
    (copy / "extra" / "masks").mkdir()
    Image.new("L", (96, 96), 255).save(copy / "extra" / "masks" / "a.png")
    write(copy, "extra/a.caption", "another text")
    text = caption(copy, "extra/a.png")
    fixed(copy, "folder_name")
    assert {name for name in content(copy) if name.startswith("1_")} == {
        "1_extra/a.png", "1_extra/a.txt", "1_extra/masks/a.png", "1_none/b.png", "1_none/b.txt", "1_pictures/loose.png",
        "1_pictures/loose.txt",
    }  # fmt: skip
    assert caption(copy, "1_extra/a.png") == text
    moved = [record for record in scan(copy).records if record.path.name in ("a.png", "b.png", "loose.png")]
    assert [record.repeats for record in moved] == [1, 1, 1]


def test_a_tag_of_one_picture_is_removed_and_nothing_else(copy):
    before = caption(copy, "2_zorb/7.png")
    add_tag(copy, "Light_House", *zorbs(7))
    fixed(copy, "one_off")
    assert caption(copy, "2_zorb/7.png") == before


def test_transparent_parts_become_white_and_16_bits_become_8(copy):
    see_through(copy)
    png_of_16_bits(copy / "2_zorb" / "5.png")
    fixed(copy, "transparent")
    fixed(copy, "colours")
    with Image.open(copy / "2_zorb" / "3.png") as image:
        assert image.mode == "RGB" and image.getpixel((5, 5)) == (255, 255, 255)
    with Image.open(copy / "2_zorb" / "5.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(draw(63)))


def test_a_picture_is_cut_to_its_buckets_shape_and_not_made_smaller(copy):
    draw(3, (928, 320)).save(copy / "2_zorb" / "3.png")
    fixed(copy, "heavy_crop")
    with Image.open(copy / "2_zorb" / "3.png") as image:
        assert image.height == 320 and image.width < 928


def test_parts_of_a_long_picture_are_none_themselves_whatever_the_limit(copy):
    draw(3, (96, 150)).save(copy / "2_zorb" / "3.png")
    with Collection.open(copy) as collection:
        values = {"extreme_aspect": 1.45, "look_at_pixels": False}
        _, (finding,) = look(collection, "extreme_aspect", values)
        assert len(apply_fix(collection, finding).added) == 2
        assert look(collection, "extreme_aspect", values)[1] == []


def test_a_fix_of_many_pictures_tells_how_far_it_is_and_can_be_stopped(copy):
    strip(copy)
    gif(copy)
    draw(64).save(copy / "3_grove" / "still.gif")
    with Collection.open(copy) as collection:
        findings = health(collection, HealthSettings(**SMALL)).findings
        for kind in ("extreme_aspect", "other_format"):
            (finding,) = [each for each in findings if each.kind == kind]
            control, told = Control(), []

            def tell(done: int, total: int, control: Control = control, told: list = told) -> None:
                told.append((done, total))
                control.stop()

            apply_fix(collection, finding, Watch(tell, control))
            assert len(told) == 1 and told[0][1] == 2
        again = health(collection, HealthSettings(**SMALL)).findings
        left = {finding.kind: len(finding.items + finding.files) for finding in again}
        assert left["extreme_aspect"] == 1 and left["other_format"] == 1


def test_a_fix_shows_its_captions_beforehand(copy):
    add_tag(copy, "red_dress", *zorbs(0))
    add_tag(copy, "commentary", *zorbs(1))
    with Collection.open(copy) as collection:
        (finding,) = [f for f in health(collection, HealthSettings(**SMALL)).findings if f.kind == "metadata_tag"]
        assert isinstance(finding.fix, EditFix)
        preview = collection.preview(finding.fix.edit, finding.items)
        ((_, before, after),) = preview.examples
        assert before == f"{after}, commentary"


def test_what_has_gone_since_the_report_is_left_out(copy):
    booru(copy)
    with Collection.open(copy) as collection:
        (finding,) = [f for f in health(collection, HealthSettings(**SMALL)).findings if f.kind == "metadata_tag"]
        collection.trash(finding.items[:1])
        assert len(apply_fix(collection, finding).changed) == len(finding.items) - 1


# What the report says beside its findings


def test_buckets_and_steps_are_the_trainers_own(copy):
    report, _ = report_on(copy, train_batch_size=2, max_train_epochs=3)
    plan = build_plan(
        scan(copy),
        resolution=(96, 96),
        batch_size=2,
        min_bucket_reso=64,
        max_bucket_reso=192,
        bucket_reso_steps=8,
        epochs=3,
    )
    assert {(b["width"], b["height"]): b["samples"] for b in report.buckets} == plan.buckets
    assert sum(bucket["batches"] for bucket in report.buckets) == plan.batches_per_epoch
    assert report.steps == {
        "samples": 48,
        "reg_samples": 0,
        "batches_per_epoch": plan.batches_per_epoch,
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": plan.total_steps,
        "epochs": 3,
    }


def test_charts_have_their_data(copy):
    report, _ = report_on(copy)
    assert dict(report.tag_frequency)["zorb"] == 12 and "girl" not in dict(report.tag_frequency)
    sizes = [{"width": 96, "height": 96, "pictures": 14}, {"width": 80, "height": 112, "pictures": 6}]
    assert list(report.resolutions) == sizes
    assert sum(report.tokens["counts"].values()) == 20 and report.tokens["over"] == {75: 0, 150: 0, 225: 0}
    assert report.to_json()["steps"] == report.steps


def test_given_regularisation_pictures_are_in_the_plan(copy, tmp_path):
    (copy / "reg").rename(tmp_path / "class")
    shutil.copy(copy / "2_zorb" / "3.png", tmp_path / "class" / "1_girl" / "b.png")
    report, names = report_on(copy, reg_data_dir=tmp_path / "class")
    assert report.steps["reg_samples"] == 48
    (finding,) = report.findings
    assert finding.kind == "training_and_regularisation"
    assert [names[id] for id in finding.items] == zorbs(3)
    assert finding.files == (str(tmp_path / "class" / "1_girl" / "b.png"),)


def test_settings_that_training_refuses_are_an_error(copy):
    draw(3, (48, 4)).save(copy / "2_zorb" / "3.png")
    report, _ = report_on(copy, bucket_no_upscale=True)
    assert [finding.kind for finding in report.findings if finding.severity == "error"] == ["plan"]
    assert report.steps is None and report.buckets == ()


def test_a_folder_without_a_picture_to_train_on_is_an_error(tmp_path):
    save(tmp_path / "x" / "0_none" / "a.png", draw(1), "zorb")
    save(tmp_path / "x" / "0_none" / "b.png", draw(2), "zorb")
    report, _ = report_on(tmp_path / "x" / "0_none")
    assert [finding.kind for finding in report.findings] == ["folder_name"]


def test_a_given_activation_tag_is_asked_for_everywhere(copy):
    report, names = report_on(copy, activation_tag="grove")
    (missing,) = [finding for finding in report.findings if finding.kind == "activation_missing"]
    assert [names[id] for id in missing.items] == zorbs(*range(12))


@pytest.mark.parametrize("first, is_called", [("zyx", True), ("masterpiece", False), ("1girl", False)])
def test_without_the_concepts_name_what_stands_first_calls_it_unless_it_says_something_else(copy, first, is_called):
    for number in range(12):
        text = caption(copy, f"2_zorb/{number}.png").replace("zorb", first if number else "cat")
        write(copy, f"2_zorb/{number}.png", text)
    report, names = report_on(copy)
    missing = [names[id] for f in report.findings if f.kind == "activation_missing" for id in f.items]
    assert missing == (zorbs(0) if is_called else [])


def test_traits_are_pruned_of_characters_only(copy):
    eyes(copy)
    kinds = {
        subject: {finding.kind for finding in report_on(copy, subject=subject)[0].findings}
        for subject in ("auto", "character", "style")
    }
    assert "prune_trait" in kinds["auto"] and "prune_trait" in kinds["character"]
    assert "prune_trait" not in kinds["style"]


def test_sentences_call_the_activation_tag_by_its_word(copy):
    for number in range(8):
        write(
            copy,
            f"3_grove/{number}.jpg",
            f"The grove in the light of evening number {number}, seen from the lake side.",
        )
    report, _ = report_on(copy, activation_tag=None)
    assert [finding.kind for finding in report.findings if finding.kind.startswith("activation")] == []


def test_without_pixels_nothing_is_decoded_and_that_is_said(copy, monkeypatch):
    copied(copy)
    monkeypatch.setattr("lib_lora.dataset.picture_facts.read_facts", lambda path: pytest.fail("decoded"))
    report, _ = report_on(copy, look_at_pixels=False)
    assert report.findings == ()
    assert any("pixels" in note for note in report.notes)


def test_a_second_report_decodes_only_what_has_changed(copy, monkeypatch):
    report_on(copy)
    read = []
    from lib_lora.dataset import picture_facts

    original = picture_facts.read_facts
    monkeypatch.setattr(picture_facts, "read_facts", lambda path: (read.append(path.name), original(path))[1])
    draw(70).save(copy / "2_zorb" / "3.png")
    report_on(copy)
    assert read == ["3.png"]


def test_it_can_be_stopped(copy):
    control = Control()
    told = []

    def tell(what: str, done: int, total: int) -> None:
        told.append(what)
        control.stop()

    with Collection.open(copy) as collection:
        assert health(collection, HealthSettings(**SMALL), tell, control) is None
    assert told


def test_looking_changes_nothing_but_the_cache(copy):
    before = content(copy)
    report_on(copy)
    assert content(copy) == before
    hidden = {path.name for path in (copy / ".lora_studio").iterdir()}
    assert "picture_facts.json" in hidden and "edits" not in hidden


def test_a_folder_that_cannot_be_written_is_looked_at_all_the_same(copy):
    twice(copy)
    with Collection.open(copy) as collection:
        collection.read_only = "the disk is read-only"
        report, (finding,) = look(collection, "activation_repeated", {})
        assert report.steps and finding.items
        with pytest.raises(StudioError, match="read-only"):
            apply_fix(collection, finding)
    assert not (copy / ".lora_studio" / "picture_facts.json").exists()


def test_settings_with_trainings_names_are_trainings():
    training = {info.name: info for info in options_of(TrainConfig)}
    shared = [info for info in options_of(HealthSettings) if info.name in training]
    assert len(shared) >= 10
    for info in shared:
        other = training[info.name]
        facts = ("kind", "optional", "default", "unit", "minimum", "maximum", "above", "choices")
        assert [getattr(info, fact) for fact in facts] == [getattr(other, fact) for fact in facts]


# Pure parts


@pytest.mark.parametrize(
    "text, clean",
    [
        ("zorb, (red dress:1.2), smile", "zorb, red dress, smile"),
        ("zorb, (red dress, blue hat:0.8)", "zorb, red dress, blue hat"),
        ("<lora:zorb:0.8>, zorb <lyco:x:1>", "zorb"),
        ("((zorb)), [[rain]]", "zorb, rain"),
        ("zorb, (smile), [rain]", "zorb, smile, rain"),
        ("zorb, a (red dress:1) in the rain", "zorb, a red dress in the rain"),
        ("hatsune miku (vocaloid:1.2), smile", "hatsune miku (vocaloid), smile"),
        ("smile (red dress, hat:0.8)", "smile red dress, hat"),
    ],
)
def test_weights_are_taken_out(text, clean):
    assert without_weights(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "zorb, saber (fate)",
        "hatsune miku (vocaloid:1), smile",
        "zorb, nier (series:2)",
        r"zorb, saber \(fate\)",
        ":), (o)_(o), ^_^, >:(",
        "A dog (a big one) runs: 3 of 4.",
        "nier (series)",
    ],
)
def test_brackets_that_belong_to_a_text_stay(text):
    assert without_weights(text) == text


def test_slips_are_one_letter_of_one_long_word():
    counts = {"serious face": 20, "long sleeves": 30, "black dress": 20, "thighhighs": 12, "cat": 20, "straw hat": 10}
    slips = {"seriuos face": 1, "long sleevs": 2, "thighighs": 1}
    sound = {
        "bat": 1,
        "straw hats": 1,
        "clack dress": 4,
        "long sleeve": 1,
        "block dress": 1,
        "block tower": 1,
        "straw hut": 1,
    }
    sound |= {"white shirt": 20, "white skirt": 1}  # both are words
    assert misspelt(counts | slips | sound) == {
        "seriuos face": "serious face",
        "long sleevs": "long sleeves",
        "thighighs": "thighhighs",
    }
