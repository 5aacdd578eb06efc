"""The options from which buckets are made, for whoever asks for them outside of training, where they mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib_lora.base.options import option
from lib_lora.dataset.plan import Size, make_buckets, parse_resolution

GROUP = "Training"

_SIDE = {"unit": "px", "minimum": 64, "level": "advanced"}
_OPTIONS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "resolution": ("512", "training resolution, one number or WIDTHxHEIGHT", {"unit": "px"}),
    "min_bucket_reso": (256, "smallest side of a bucket", {**_SIDE, "label": "Smallest bucket side"}),
    "max_bucket_reso": (1024, "largest side of a bucket", {**_SIDE, "label": "Largest bucket side"}),
    "bucket_reso_steps": (
        64,
        "bucket sides are multiples of this, itself a multiple of 8",
        {**_SIDE, "minimum": 8, "label": "Bucket side steps"},
    ),
}


def bucket_option(name: str, group: str) -> Any:
    """The option field of this name, in a group of its own."""
    default, help, more = _OPTIONS[name]
    return option(default, help, group=group, **more)


@dataclass(frozen=True)
class BucketOptions:
    resolution: str = bucket_option("resolution", GROUP)
    min_bucket_reso: int = bucket_option("min_bucket_reso", GROUP)
    max_bucket_reso: int = bucket_option("max_bucket_reso", GROUP)
    bucket_reso_steps: int = bucket_option("bucket_reso_steps", GROUP)

    def buckets(self) -> list[Size]:
        """Raises StudioError where the resolution is none."""
        resolution = parse_resolution(self.resolution)
        return make_buckets(resolution, self.min_bucket_reso, self.max_bucket_reso, self.bucket_reso_steps)
