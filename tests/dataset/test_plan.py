"""Buckets, repeats and steps. Golden numbers: kohya-ss/sd-scripts 48d368f, its own functions run once."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import time
from pathlib import Path

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.dataset.plan import (
    Bucket,
    build_plan,
    epoch_batches,
    make_buckets,
    parse_resolution,
    select_bucket,
    shrink_only_bucket,
)
from lib_lora.dataset.records import Fault, ImageRecord, LeftOut, Scan, scan

SIZES = [
    (512, 512),
    (1000, 1500),
    (1920, 1080),
    (333, 1000),
    (64, 4000),
    (700, 699),
    (100, 100),
    (832, 320),
    (3000, 3001),
    (511, 769),
    (640, 384),
    (4000, 64),
    (1024, 768),
]


def a_scan(*groups, regularisation=False, left_out=(), notes=(), faults=()) -> Scan:
    """A scan with groups of (number, size, repeats)."""
    records = [
        ImageRecord(Path(f"data/{repeats}_c{group}/{number}.png"), "x", *size, repeats, regularisation, f"c{group}")
        for group, (count, size, repeats) in enumerate(groups)
        for number in range(count)
    ]
    option = "reg_data_dir" if regularisation else "train_data_dir"
    return Scan(Path("data"), option, tuple(records), tuple(left_out), tuple(faults), tuple(notes))


# library/model_util.py, make_bucket_resolutions
def test_the_buckets_of_512():
    assert make_buckets((512, 512), 256, 1024, 64) == [
        (256, 832),
        (256, 896),
        (256, 960),
        (256, 1024),
        (320, 704),
        (320, 768),
        (384, 640),
        (448, 576),
        (512, 512),
        (576, 448),
        (640, 384),
        (704, 320),
        (768, 320),
        (832, 256),
        (896, 256),
        (960, 256),
        (1024, 256),
    ]


def test_the_buckets_of_768_by_512():
    assert make_buckets((768, 512), 320, 960, 64) == [
        (320, 960),
        (384, 896),
        (384, 960),
        (448, 832),
        (512, 704),
        (512, 768),
        (576, 576),
        (576, 640),
        (640, 576),
        (704, 512),
        (768, 512),
        (832, 448),
        (896, 384),
        (960, 320),
        (960, 384),
    ]


def test_the_buckets_of_sdxl():
    found = make_buckets((1024, 1024), 512, 2048, 64)
    assert len(found) == 33
    assert found[:12] == [
        (512, 1856),
        (512, 1920),
        (512, 1984),
        (512, 2048),
        (576, 1664),
        (576, 1728),
        (576, 1792),
        (640, 1536),
        (640, 1600),
        (704, 1408),
        (704, 1472),
        (768, 1280),
    ]


# library/train_util.py, BucketManager.select_bucket
def test_every_size_goes_where_sd_scripts_puts_it():
    buckets = make_buckets((512, 512), 256, 1024, 64)
    assert [select_bucket(*size, buckets) for size in SIZES] == [
        Bucket((512, 512), (512, 512)),
        Bucket((384, 640), (427, 640)),
        Bucket((640, 384), (683, 384)),
        Bucket((256, 832), (277, 832)),
        Bucket((256, 1024), (256, 16000)),
        Bucket((512, 512), (513, 512)),
        Bucket((512, 512), (512, 512)),
        Bucket((768, 320), (832, 320)),
        Bucket((512, 512), (512, 512)),
        Bucket((384, 640), (425, 640)),
        Bucket((640, 384), (640, 384)),
        Bucket((1024, 256), (16000, 256)),
        Bucket((576, 448), (597, 448)),
    ]


def test_every_size_goes_where_sd_scripts_puts_it_with_steps_of_32():
    buckets = make_buckets((768, 1024), 320, 1536, 32)
    assert [select_bucket(*size, buckets) for size in SIZES] == [
        Bucket((864, 864), (864, 864)),
        Bucket((704, 1088), (725, 1088)),
        Bucket((1152, 672), (1195, 672)),
        Bucket((512, 1536), (512, 1538)),
        Bucket((320, 1536), (320, 20000)),
        Bucket((864, 864), (865, 864)),
        Bucket((864, 864), (864, 864)),
        Bucket((1408, 544), (1414, 544)),
        Bucket((864, 864), (864, 864)),
        Bucket((704, 1088), (723, 1088)),
        Bucket((1120, 672), (1120, 672)),
        Bucket((1536, 320), (20000, 320)),
        Bucket((1024, 768), (1024, 768)),
    ]


def test_no_upscale_shrinks_and_floors_as_sd_scripts_does():
    sizes = [size for size in SIZES if 64 not in size]
    assert [shrink_only_bucket(*size, 512 * 512, 64) for size in sizes] == [
        Bucket((512, 512), (512, 512)),
        Bucket((384, 576), (384, 576)),
        Bucket((640, 384), (683, 384)),
        Bucket((256, 768), (256, 769)),
        Bucket((512, 512), (513, 512)),
        Bucket((64, 64), (100, 100)),
        Bucket((640, 256), (666, 256)),
        Bucket((512, 512), (512, 512)),
        Bucket((384, 576), (384, 578)),
        Bucket((640, 384), (640, 384)),
        Bucket((512, 384), (512, 384)),
    ]


def test_half_pixels_round_up_and_ties_go_to_the_height_as_in_sd_scripts():
    buckets = make_buckets((512, 512), 256, 1024, 64)
    assert select_bucket(1025, 1024, buckets) == Bucket((512, 512), (513, 512))
    assert select_bucket(1024, 1025, buckets) == Bucket((512, 512), (512, 513))
    assert shrink_only_bucket(500, 572, 512 * 512, 64) == Bucket((448, 512), (448, 512))
    assert shrink_only_bucket(500, 1101, 512 * 512, 64) == Bucket((320, 704), (320, 704))


def test_without_buckets_all_go_to_the_one_resolution():
    plan = build_plan(a_scan(*((1, size, 1) for size in SIZES)), resolution=(512, 768), enable_bucket=False)
    assert [image.bucket.resolution for image in plan.images] == [(512, 768)] * len(SIZES)
    assert [image.bucket.resized for image in plan.images] == [
        (768, 768),
        (512, 768),
        (1365, 768),
        (512, 1538),
        (512, 32000),
        (769, 768),
        (768, 768),
        (1997, 768),
        (768, 768),
        (512, 771),
        (1280, 768),
        (48000, 768),
        (1024, 768),
    ]


def test_no_bucket_is_larger_than_the_area_and_all_lie_on_the_step():
    generator = random.Random(0)
    for _ in range(100):
        step = generator.choice([8, 16, 32, 64])
        width, height = generator.randrange(256, 1300, 8), generator.randrange(256, 1300, 8)
        lower, upper = generator.randrange(step, 257, step), math.ceil(max(width, height) / step) * step
        for w, h in make_buckets((width, height), lower, upper, step):
            assert w * h <= width * height
            assert w % step == h % step == 0
            assert max(w, h) <= upper


def test_a_resized_picture_covers_its_bucket_and_touches_two_of_its_borders():
    generator = random.Random(1)
    buckets = make_buckets((512, 512))
    for _ in range(3000):
        width, height = generator.randint(16, 4000), generator.randint(16, 4000)
        for bucket in (select_bucket(width, height, buckets), shrink_only_bucket(width, height, 512 * 512, 8)):
            assert bucket.resized[0] >= bucket.resolution[0]
            assert bucket.resized[1] >= bucket.resolution[1]
        covering = select_bucket(width, height, buckets)
        assert covering.resized[0] == covering.resolution[0] or covering.resized[1] == covering.resolution[1]
        shrunk = shrink_only_bucket(width, height, 512 * 512, 8)
        assert shrunk.resized[0] <= width + 1
        assert shrunk.resized[1] <= height + 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", (512, 512)),
        ("512,768", (512, 768)),
        ("512x768", (512, 768)),
        (" 1024 X 64 ", (1024, 64)),
        (640, (640, 640)),
    ],
)
def test_resolutions_as_people_write_them(text, size):
    assert parse_resolution(text) == size


@pytest.mark.parametrize(
    "text", ["", "big", "512,", "512x768x3", "-512", "513", "56", "512,60", "0", "5.5", "1e3", None]
)
def test_what_is_no_resolution_is_refused(text):
    with pytest.raises(StudioError) as fault:
        parse_resolution(text)
    assert fault.value.field == "resolution"


def test_repeats_become_samples_and_samples_become_steps():
    scan = a_scan((3, (512, 512), 5), (2, (300, 600), 2))
    plan = build_plan(scan, resolution=(512, 512), batch_size=4, epochs=10)
    assert plan.buckets == {(320, 704): 4, (512, 512): 15}
    assert plan.train_samples == len(plan.entries) == 19
    assert plan.batches_per_epoch == 1 + 4
    assert (plan.steps_per_epoch, plan.epochs, plan.total_steps) == (5, 10, 50)
    assert [entry.repeat for entry in plan.entries[:6]] == [0, 1, 2, 3, 4, 0]
    assert all(plan.images[entry.image].record is entry.record for entry in plan.entries)


def test_accumulation_and_processes_share_batches_and_round_up():
    plan = build_plan(
        a_scan((25, (512, 512), 1)),
        resolution=(512, 512),
        batch_size=2,
        gradient_accumulation_steps=3,
        processes=2,
        max_train_steps=10,
    )
    assert (plan.batches_per_epoch, plan.steps_per_epoch, plan.total_steps, plan.epochs) == (13, 3, 10, 4)


def test_the_length_is_1600_steps_where_none_is_given():
    plan = build_plan(a_scan((100, (512, 512), 1)), resolution=(512, 512))
    assert (plan.total_steps, plan.epochs) == (1600, 16)


def test_two_lengths_exclude_one_another():
    with pytest.raises(StudioError) as fault:
        build_plan(a_scan((1, (512, 512), 1)), resolution=(512, 512), epochs=1, max_train_steps=2)
    assert fault.value.field == "max_train_steps"


# library/train_util.py, DreamBoothDataset: the loop that works out num_repeats of regularisation images
@pytest.mark.parametrize(
    ("folder_repeats", "train_samples", "expected"),
    [
        ([1, 1, 1], 10, [4, 3, 3]),
        ([2, 2, 2], 3, [2, 2]),
        ([1, 1, 1, 1], 2, [1, 1]),
        ([5, 1], 6, [5, 1]),
        ([3, 1, 1], 20, [8, 6, 6]),
    ],
)
def test_regularisation_is_repeated_up_to_the_training_samples(folder_repeats, train_samples, expected):
    reg = a_scan(*((1, (512, 512), repeats) for repeats in folder_repeats), regularisation=True)
    plan = build_plan(a_scan((1, (512, 512), train_samples)), reg, resolution=(512, 512))
    assert [image.repeats for image in plan.images if image.record.regularisation] == expected
    assert plan.train_samples == train_samples
    assert plan.reg_samples == sum(expected)
    if len(expected) < len(folder_repeats):
        assert "are not used" in plan.describe()


def test_regularisation_shares_the_buckets():
    reg = a_scan((2, (1024, 1024), 1), regularisation=True)
    plan = build_plan(a_scan((2, (512, 512), 1)), reg, resolution=(512, 512), batch_size=4)
    assert plan.buckets == {(512, 512): 4}
    assert plan.batches_per_epoch == 1


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_an_epoch_shows_every_sample_once_in_batches_of_one_bucket(batch_size):
    scan = a_scan((7, (512, 512), 3), (5, (300, 600), 1), (1, (1024, 256), 2))
    plan = build_plan(scan, resolution=(512, 512), batch_size=batch_size)
    batches = epoch_batches(plan, seed=1, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(len(plan.entries)))
    assert len(batches) == plan.batches_per_epoch
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({plan.entries[index].bucket.resolution for index in batch}) == 1


def test_the_order_belongs_to_seed_and_epoch_and_leaves_the_global_generator_alone():
    plan = build_plan(a_scan((30, (512, 512), 1), (30, (300, 600), 1)), resolution=(512, 512), batch_size=2)
    state = random.getstate()
    first = epoch_batches(plan, seed=1, epoch=0)
    assert first == epoch_batches(plan, seed=1, epoch=0)
    assert first != epoch_batches(plan, seed=1, epoch=1)
    assert first != epoch_batches(plan, seed=2, epoch=0)
    assert random.getstate() == state


def test_batches_of_different_buckets_are_mixed():
    plan = build_plan(a_scan((40, (512, 512), 1), (40, (300, 600), 1)), resolution=(512, 512), batch_size=2)
    shapes = [plan.entries[batch[0]].bucket.resolution for batch in epoch_batches(plan, seed=0, epoch=0)]
    assert sum(left != right for left, right in itertools.pairwise(shapes)) > 5


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"max_bucket_reso": 448}, "max_bucket_reso"),
        ({"min_bucket_reso": 576}, "min_bucket_reso"),
        ({"bucket_reso_steps": 12}, "bucket_reso_steps"),
        ({"bucket_reso_steps": 512}, "min_bucket_reso"),
    ],
)
def test_limits_that_do_not_fit_the_resolution_are_refused(options, option):
    with pytest.raises(StudioError) as fault:
        build_plan(a_scan((1, (512, 512), 1)), resolution=(512, 512), **options)
    assert fault.value.field == option


def test_limits_off_the_step_are_moved_outwards_and_it_is_said():
    plan = build_plan(a_scan((1, (100, 1000), 1)), resolution=(512, 512), min_bucket_reso=300, max_bucket_reso=1000)
    assert (plan.rules.min_bucket_reso, plan.rules.max_bucket_reso) == (256, 1024)
    assert "256 to 1024" in plan.describe()


@pytest.mark.parametrize("size", [(63, 512), (4000, 20), (100_000, 10)])
def test_a_picture_too_small_for_a_bucket_without_upscaling_is_refused_by_name(size):
    with pytest.raises(StudioError, match=r"0\.png") as fault:
        build_plan(a_scan((1, size, 1)), resolution=(512, 512), bucket_no_upscale=True)
    assert fault.value.field == "bucket_no_upscale"


def test_faults_of_a_scan_stop_the_plan():
    scan = a_scan((1, (512, 512), 1), faults=[Fault(Path("bad.png"), "the file is empty")])
    with pytest.raises(StudioError, match=r"bad\.png: the file is empty"):
        build_plan(scan, resolution=(512, 512))


def test_the_description_tells_all_that_matters():
    scan = a_scan(
        (3, (512, 512), 5),
        (1, (200, 300), 2),
        notes=["a.txt: the caption has several lines; the first is used"],
        left_out=[LeftOut(Path(f"data/{name}.gif"), ".gif is not read", "format") for name in "bc"],
    )
    reg = a_scan((2, (512, 512), 1), regularisation=True)
    text = build_plan(scan, reg, resolution=(512, 512), batch_size=4, epochs=3).describe()
    for words in (
        "4 pictures",
        "17 samples",
        "c0 (15 samples), c1 (2 samples)",
        "512x512",
        "384x640",
        "regularisation",
        "Steps: 27 in 3 epochs of 9",
        "fewer samples than the batch size 4 in the buckets 384x640",
        "enlarged",
        "several lines",
        "Left out: 2",
        ".gif is not read",
    ):
        assert words in text, f"{words!r} is not in:\n{text}"
    assert text.isascii()


def test_regularisation_pictures_made_one_for_each_training_picture_are_checked_for_missing_ones():
    reg = a_scan((4, (512, 512), 1), regularisation=True)
    assert "have a regularisation picture of their name" not in " ".join(
        build_plan(named(a_scan((2, (512, 512), 1)), "x{}.png"), reg, resolution=(512, 512)).notes
    )
    notes = " ".join(build_plan(a_scan((4, (512, 512), 1)), reg, resolution=(512, 512)).notes)
    assert "4 of 4 training pictures have" in notes and "without" not in notes
    notes = " ".join(build_plan(a_scan((5, (512, 512), 1)), named(reg, "{}.jpg", start=1), resolution=(512, 512)).notes)
    assert "4 of 5 training pictures have" in notes
    assert "without a regularisation picture of their name: data/1_c0/0.png" in notes
    notes = " ".join(build_plan(a_scan((3, (512, 512), 1)), reg, resolution=(512, 512)).notes)
    assert "without a training picture of their name: data/1_c0/3.png" in notes


def named(scan: Scan, pattern: str, start: int = 0) -> Scan:
    """The scan with its pictures called anew."""
    records = [
        dataclasses.replace(record, path=record.path.with_name(pattern.format(start + index)))
        for index, record in enumerate(scan.records)
    ]
    return dataclasses.replace(scan, records=tuple(records))


def test_a_folder_of_regularisation_pictures_inside_is_offered_and_not_trained_on(tmp_path):
    for folder in ("3_cat", "reg/1_cat"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / folder / "a.png")
    plan = build_plan(scan(tmp_path), resolution=(64, 64), min_bucket_reso=64)
    assert plan.train_samples == 3 and plan.reg_samples == 0
    assert any(str(tmp_path / "reg") in note and "reg_data_dir" in note for note in plan.notes)
    assert "reg_data_dir" in plan.describe()


def test_a_picture_that_grows_by_rounding_only_is_not_called_enlarged():
    assert "enlarged" not in build_plan(a_scan((1, (512, 640), 1)), resolution=(512, 512)).describe()


def test_ten_thousand_pictures_are_planned_in_seconds():
    generator = random.Random(0)
    groups = [(1, (generator.randint(300, 3000), generator.randint(300, 3000)), 10) for _ in range(10_000)]
    scan = a_scan(*groups)
    start = time.perf_counter()
    plan = build_plan(scan, resolution=(1024, 1024), max_bucket_reso=2048, batch_size=4)
    epoch_batches(plan, seed=0, epoch=0)
    assert time.perf_counter() - start < 8
