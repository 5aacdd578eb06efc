"""Options of one folder of pictures."""

from __future__ import annotations

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping
from lib_lora.dataset.records import SETTINGS_FILE
from lib_lora.training.config import TrainConfig
from lib_lora.training.folder_settings import FolderSettings
from lib_lora.training.planning import make_plan
from lib_lora.training.same_run import check_same_run, describe_pictures


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "dataset"
    for name in ("1_cat", "1_dog"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(root / name / "a.png")
        (root / name / "a.txt").write_text("a, b, c")
    return root


@pytest.fixture
def config(train_options, folders):
    return from_mapping(TrainConfig, {**train_options, "train_data_dir": folders, "keep_tokens": 2})


def test_a_folder_has_options_of_its_own_and_the_run_has_the_others(config, folders):
    lines = ["shuffle_caption = true", 'caption_prefix = "photo of"', "flip_aug = true"]
    (folders / "1_cat" / SETTINGS_FILE).write_text("\n".join(lines))
    plan = make_plan(config)
    own = FolderSettings(plan, config)
    by_concept = {image.record.concept: own.rules(image.record.settings) for image in plan.images}
    assert (by_concept["cat"].shuffle_caption, by_concept["cat"].caption_prefix) == (True, "photo of")
    assert (by_concept["dog"].shuffle_caption, by_concept["dog"].caption_prefix) == (False, "")
    assert by_concept["cat"].keep_tokens == by_concept["dog"].keep_tokens == 2
    assert own.flips and "1_cat" in plan.treatment[-1]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("network_dim = 4", "network_dim"),
        ("keep_tokens = -1", "keep_tokens"),
        ("random_crop = true", "random_crop"),
        ("keep_tokens", "config_file"),
    ],
)
def test_a_fault_names_the_folders_file(config, folders, text, field):
    file = folders / "1_dog" / SETTINGS_FILE
    file.write_text(text)
    with pytest.raises(StudioError) as raised:
        make_plan(config)
    assert (raised.value.file, raised.value.field) == (str(file), field)


def test_a_run_does_not_go_on_with_other_options_of_a_folder(config, folders, tmp_path):
    described = {"held": {}, "files": {}, "free": {}, "computed_with": {}}
    before = {**described, "pictures": describe_pictures(make_plan(config))}
    (folders / "1_dog" / SETTINGS_FILE).write_text("keep_tokens = 1")
    after = {**described, "pictures": describe_pictures(make_plan(config))}
    with pytest.raises(StudioError, match="another folder's options: 1_dog/a.png"):
        check_same_run(before, after, tmp_path)
