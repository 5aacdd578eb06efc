"""The options from which buckets are made, for whoever asks for them outside of training, where they mean the same."""

from __future__ import annotations

from dataclasses import dataclass

from lib_lora.base.options import option
from lib_lora.dataset.plan import Size, make_buckets, parse_resolution

GROUP = "Training"


@dataclass(frozen=True)
class BucketOptions:
    resolution: str = option("512", "training resolution, one number or WIDTHxHEIGHT", unit="px", group=GROUP)
    min_bucket_reso: int = option(
        256, "smallest side of a bucket", unit="px", minimum=64, level="advanced", group=GROUP
    )
    max_bucket_reso: int = option(
        1024, "largest side of a bucket", unit="px", minimum=64, level="advanced", group=GROUP
    )
    bucket_reso_steps: int = option(
        64,
        "bucket sides are multiples of this, itself a multiple of 8",
        unit="px",
        minimum=8,
        level="advanced",
        group=GROUP,
    )

    def buckets(self) -> list[Size]:
        """Raises StudioError where the resolution is none."""
        resolution = parse_resolution(self.resolution)
        return make_buckets(resolution, self.min_bucket_reso, self.max_bucket_reso, self.bucket_reso_steps)
