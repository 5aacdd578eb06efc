"""What the health report needs to know of the training to come, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.options import option
from lib_lora.dataset.bucket_options import GROUP, BucketOptions

TAGS = "Tags"
PICTURES = "Pictures"


@dataclass(frozen=True)
class HealthSettings(BucketOptions):
    """Names that training has, too, mean the same here."""

    activation_tag: str | None = option(
        None,
        "tag that calls the LoRA; not given: the concept's name, or what stands first on most captions",
        group=TAGS,
    )
    subject: str = option(
        "auto",
        "what is trained; auto: a character where most captions name one person",
        choices=("auto", "character", "style", "other"),
        group=TAGS,
    )
    prune_over: float = option(
        0.8, "offer to prune tags on more than this share of the pictures", minimum=0.5, maximum=1, group=TAGS
    )
    look_at_pixels: bool = option(
        True, "decode the pictures: finds damaged ones, duplicates and transparency", group=PICTURES
    )
    look_alike_bits: int = option(
        6,
        "pictures look alike when so many of the 64 bits of their perceptual hashes differ, or fewer",
        minimum=0,
        maximum=16,
        unit="bits",
        level="advanced",
        group=PICTURES,
    )
    extreme_aspect: float = option(
        3.0, "name pictures whose long side is this many times the short one", above=1, level="advanced", group=PICTURES
    )
    heavy_crop: float = option(
        0.2,
        "name pictures of which the bucket cuts away more than this share",
        minimum=0,
        maximum=1,
        level="advanced",
        group=PICTURES,
    )
    reg_data_dir: Path | None = option(
        None, "folder of regularisation pictures, same layout", group=GROUP, folder="datasets"
    )
    enable_bucket: bool = option(True, "keep each picture's shape by sorting pictures into buckets", group=GROUP)
    bucket_no_upscale: bool = option(False, "never enlarge a picture to fill its bucket", level="advanced", group=GROUP)
    train_batch_size: int = option(1, "pictures per step", minimum=1, group=GROUP)
    gradient_accumulation_steps: int = option(
        1, "batches gathered for one step", minimum=1, level="advanced", group=GROUP
    )
    max_train_epochs: int | None = option(None, "length of the run in epochs", minimum=1, group=GROUP)
    max_train_steps: int | None = option(
        None, "length of the run in steps; 1600 when neither is given", minimum=1, group=GROUP
    )
    max_token_length: int = option(
        75, "longest caption, a multiple of 75", minimum=75, maximum=1500, unit="tokens", group=GROUP
    )
