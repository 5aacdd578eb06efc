"""The sizes of the tiny checkpoints: their families' layouts with few channels."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TextShape:
    """One text encoder; ``open_clip`` says whose names its tensors have."""

    width: int
    layers: int
    heads: int
    open_clip: bool
    projection: int | None = None


@dataclass(frozen=True)
class Shape:
    """``depths``: transformer blocks per level of the UNet, 0 for a level without attention."""

    family: str
    levels: tuple[int, ...]
    depths: tuple[int, ...]
    texts: tuple[TextShape, ...]
    heads: int | None = None
    head_channels: int | None = None
    linear: bool = False
    size_width: int | None = None
    inputs: int = 4
    parameterization: str = "eps"
    scale_factor: float = 0.18215
    vocabulary: int = 600

    @property
    def channels(self) -> int:
        return self.levels[0]

    @property
    def context(self) -> int:
        return sum(text.width for text in self.texts)

    @property
    def vector(self) -> int | None:
        """Width of SDXL's pooled text and six embedded sizes."""
        return None if self.size_width is None else self.texts[-1].projection + 6 * self.size_width

    def for_inpainting(self) -> Shape:
        return replace(self, inputs=9)


CLIP = TextShape(width=32, layers=3, heads=2, open_clip=False)
SD1 = Shape("SD1", (32, 32, 64, 64), (1, 1, 1, 0), (CLIP,), heads=2)
SD2 = Shape(
    "SD2",
    (32, 32, 64, 64),
    (1, 1, 1, 0),
    (TextShape(width=48, layers=4, heads=3, open_clip=True, projection=24),),
    head_channels=16,
    linear=True,
    parameterization="v",
)
SDXL = Shape(
    "SDXL",
    (32, 64, 64),
    (0, 1, 2),
    (CLIP, TextShape(width=48, layers=4, heads=3, open_clip=True, projection=24)),
    head_channels=16,
    linear=True,
    size_width=8,
    scale_factor=0.13025,
)
SHAPES = {shape.family: shape for shape in (SD1, SD2, SDXL)}

# The published models' own sizes, to be used without weights.
_VIT_L = TextShape(width=768, layers=12, heads=12, open_clip=False)
FULL_SIZE = {
    "SD1": Shape("SD1", (320, 640, 1280, 1280), (1, 1, 1, 0), (_VIT_L,), heads=8, vocabulary=49408),
    "SD2": Shape(
        "SD2",
        (320, 640, 1280, 1280),
        (1, 1, 1, 0),
        (TextShape(width=1024, layers=24, heads=16, open_clip=True, projection=1024),),
        head_channels=64,
        linear=True,
        vocabulary=49408,
    ),
    "SDXL": Shape(
        "SDXL",
        (320, 640, 1280),
        (0, 2, 10),
        (_VIT_L, TextShape(width=1280, layers=32, heads=20, open_clip=True, projection=1280)),
        head_channels=64,
        linear=True,
        size_width=256,
        vocabulary=49408,
    ),
}
