"""Options: the pictures and captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.options import option
from lib_lora.dataset.bucket_options import bucket_option

GROUP = "Dataset"


@dataclass(frozen=True)
class DatasetOptions:
    """The group "Dataset"."""

    train_data_dir: Path | None = option(
        None,
        "folder of pictures, or of <repeats>_<name> folders; none for iLECO and slider alone",
        group=GROUP,
        label="Pictures",
        folder="datasets",
    )
    reg_data_dir: Path | None = option(
        None,
        "folder of regularisation pictures, same layout",
        group=GROUP,
        label="Regularisation pictures",
        folder="datasets",
    )
    caption_extension: str = option(
        ".txt",
        "extension of the caption files that is preferred",
        choices=(".txt", ".caption"),
        group=GROUP,
        label="Caption files",
    )
    resolution: str = bucket_option("resolution", GROUP)
    enable_bucket: bool = option(
        True, "keep each picture's shape by sorting pictures into buckets", group=GROUP, label="Buckets"
    )
    min_bucket_reso: int = bucket_option("min_bucket_reso", GROUP)
    max_bucket_reso: int = bucket_option("max_bucket_reso", GROUP)
    bucket_reso_steps: int = bucket_option("bucket_reso_steps", GROUP)
    bucket_no_upscale: bool = option(
        False, "never enlarge a picture to fill its bucket", level="advanced", group=GROUP, label="Never enlarge"
    )
    caption_separator: str = option(",", "what stands between two tags of a caption", level="advanced", group=GROUP)
    shuffle_caption: bool = option(
        False, "show a caption's tags in another order each time", group=GROUP, label="Shuffle tags"
    )
    keep_tokens: int = option(
        0,
        "how many first tags keep their place and are never dropped",
        unit="tags",
        minimum=0,
        group=GROUP,
        label="Tags that stay first",
    )
    keep_tokens_separator: str = option(
        "",
        "where it stands in a caption, tags before it keep their place, and tags behind a second one, as ||| in "
        "zorb ||| red, dog ||| masterpiece",
        level="advanced",
        group=GROUP,
        label="Separator of tags that stay",
    )
    caption_dropout_rate: float = option(
        0.0,
        "share of samples shown without a caption",
        minimum=0,
        maximum=1,
        level="advanced",
        group=GROUP,
        label="Caption dropout",
    )
    caption_dropout_every_n_epochs: int = option(
        0,
        "every n-th epoch is shown without captions; 0 is never",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Epochs without captions",
    )
    caption_tag_dropout_rate: float = option(
        0.0,
        "share of tags left out, anew each time",
        minimum=0,
        maximum=1,
        level="advanced",
        group=GROUP,
        label="Tag dropout",
    )
    caption_prefix: str = option("", "text before every caption", level="advanced", group=GROUP)
    caption_suffix: str = option("", "text behind every caption", level="advanced", group=GROUP)
    secondary_separator: str = option(
        "",
        "tags with it between them stay together, as one tag, and are parted at the end, as ;;; in red hat;;;red shoes",
        level="advanced",
        group=GROUP,
        label="Separator inside a tag",
    )
    enable_wildcard: bool = option(
        False,
        "of a caption's lines one is drawn each time, and one word of {red|blue}; {{ is a brace",
        level="advanced",
        group=GROUP,
        label="Wildcards",
    )
    weighted_captions: bool = option(
        False,
        "(tag:1.2) and [tag] in captions are weights, as in the WebUI's prompts",
        level="advanced",
        group=GROUP,
        label="Weights in captions",
    )
    token_warmup_min: int = option(
        1,
        "with a tag warm-up: how many tags, after those that stay, the first step shows",
        unit="tags",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Tags at first",
    )
    token_warmup_step: float = option(
        0.0,
        "step at which all tags are shown, one more after the other until then; below 1 a share of the run, 0 is off",
        unit="steps",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Tag warm-up",
    )
    masked_loss: bool = option(
        False,
        "the loss counts where a picture's mask is white (masks/<its name>.png beside it, as the Dataset tab paints)",
        level="advanced",
        group=GROUP,
        label="Masks",
    )
    alpha_mask: bool = option(
        False,
        "the loss counts where a picture without a mask is opaque",
        level="advanced",
        group=GROUP,
        label="Transparency as mask",
    )
    flip_aug: bool = option(
        False, "show half of the pictures mirrored, drawn anew each time", group=GROUP, label="Mirror pictures"
    )
    random_crop: bool = option(
        False,
        "cut what does not fit a bucket off at another place each time; encodes pictures at each step",
        level="advanced",
        group=GROUP,
        label="Crop anywhere",
    )
    color_aug: bool = option(
        False,
        "show a third of the pictures with another hue or brightness each time; encodes pictures at each step",
        level="advanced",
        group=GROUP,
        label="Vary colours",
    )
    max_token_length: int = option(
        75,
        "longest caption, a multiple of 75: each 75 tokens more cost time and memory",
        unit="tokens",
        minimum=75,
        maximum=1500,
        level="advanced",
        group=GROUP,
        label="Longest caption",
    )
