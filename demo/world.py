"""The demo world: pictures of one coloured shape on a plain background, their captions, and a ruler for both.

Everything is drawn, so a picture's caption is known exactly, and everything is large and flat, so whether a
generated picture follows its caption can be measured on the pixels instead of being judged by eye.

The world has 5 shapes, 6 colours (of the shape and of the background, never the same), 2 sizes and 3
positions: 900 scenes. Beside it lives the concept, a character that is never drawn for the base model; LoRAs
learn it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PICTURE_PX = 128
SUPERSAMPLING = 4

COLOURS = {
    "red": (220, 60, 60),
    "yellow": (245, 205, 60),
    "green": (70, 170, 90),
    "blue": (60, 110, 220),
    "purple": (160, 60, 180),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "star", "ring")
SIZES_PX = {"small": 25.0, "large": 38.0}  # radius
POSITIONS_PX = {"left": 42.0, "center": 64.0, "right": 86.0}  # x of the shape's centre

TAGS = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES_PX),
    "position": tuple(POSITIONS_PX),
    "background": tuple(COLOURS),
}

CONCEPT_TAG = "zorbi"
CONCEPT_TOP, CONCEPT_BOTTOM = "purple", "white"
CONCEPT_BACKGROUNDS = tuple(name for name in COLOURS if name not in (CONCEPT_TOP, CONCEPT_BOTTOM))
CONCEPT_SIZES_PX = {"small": 30.0, "large": 38.0}  # radius of the disc: its horns stay at least 24 px long


@dataclass(frozen=True)
class Scene:
    """What a world picture shows; every field is one of TAGS[field]."""

    colour: str
    shape: str
    size: str
    position: str
    background: str

    def tags(self) -> list[str]:
        """The caption's tags in a fixed order."""
        return [self.colour, self.shape, self.size, self.position, f"{self.background} background"]

    def caption(self, rng: np.random.Generator | None = None) -> str:
        """The tags joined by commas, in random order when `rng` is given."""
        return join_tags(self.tags(), rng)


@dataclass(frozen=True)
class ConceptScene:
    """What a picture of the concept shows; its looks are not captioned, since its tag stands for them."""

    size: str
    position: str
    background: str

    def tags(self) -> list[str]:
        """The caption's tags, the activation tag first."""
        return [CONCEPT_TAG, self.size, self.position, f"{self.background} background"]

    def caption(self) -> str:
        """The tags joined by commas."""
        return join_tags(self.tags())


def join_tags(tags: list[str], rng: np.random.Generator | None = None) -> str:
    """Comma-separated caption, shuffled when `rng` is given."""
    if rng is not None:
        tags = [tags[i] for i in rng.permutation(len(tags))]
    return ", ".join(tags)


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene with every tag uniform, the background differing from the colour."""
    picked = {field: str(rng.choice(names)) for field, names in TAGS.items()}
    others = [name for name in COLOURS if name != picked["colour"]]
    return Scene(**{**picked, "background": str(rng.choice(others))})


def random_concept_scene(rng: np.random.Generator) -> ConceptScene:
    """A concept scene with every tag uniform; the background is none of the concept's own colours."""
    return ConceptScene(
        size=str(rng.choice(list(CONCEPT_SIZES_PX))),
        position=str(rng.choice(list(POSITIONS_PX))),
        background=str(rng.choice(CONCEPT_BACKGROUNDS)),
    )


# ---------------------------------------------------------------------------------------------- drawing


def outline(shape: str) -> np.ndarray:
    """Points [n, 2] of the shape's outer edge around (0, 0), in units of its radius, y down."""
    if shape == "square":
        return np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)])
    if shape == "triangle":
        return np.array([(0.0, -0.95), (1.05, 0.9), (-1.05, 0.9)])
    if shape == "star":
        angles = -math.pi / 2 + np.arange(10) * math.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, 1.15, 0.5)
        return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    if shape in ("circle", "ring"):
        angles = np.arange(96) * 2 * math.pi / 96
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    raise ValueError(f"shape: got {shape!r}, allowed are {', '.join(SHAPES)}")


RING_HOLE = 0.52  # radius of the ring's hole in units of its radius: 26 px across in a small ring


def shape_mask(shape: str, centre_px: tuple[float, float], radius_px: float) -> Image.Image:
    """Antialiased coverage of the shape: an "L" picture of PICTURE_PX x PICTURE_PX."""
    centre = np.array(centre_px)
    polygons = [(outline(shape) * radius_px + centre, 255)]
    if shape == "ring":
        polygons.append((outline("circle") * RING_HOLE * radius_px + centre, 0))
    return polygon_mask(polygons)


def polygon_mask(polygons: list[tuple[np.ndarray, int]]) -> Image.Image:
    """Coverage of polygons (points [n, 2] in px, value) painted one over the other, antialiased."""
    mask = Image.new("L", (PICTURE_PX * SUPERSAMPLING,) * 2)
    pen = ImageDraw.Draw(mask)
    for points, value in polygons:
        pen.polygon([tuple(p) for p in (points * SUPERSAMPLING).tolist()], fill=value)
    return mask.reduce(SUPERSAMPLING)


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of the scene, with a little play in place and size."""
    radius = SIZES_PX[scene.size] * rng.uniform(0.96, 1.04)
    centre = (POSITIONS_PX[scene.position] + rng.uniform(-3, 3), PICTURE_PX / 2 + rng.uniform(-8, 8))
    picture = Image.new("RGB", (PICTURE_PX, PICTURE_PX), COLOURS[scene.background])
    picture.paste(COLOURS[scene.colour], mask=shape_mask(scene.shape, centre, radius))
    return picture


def draw_concept(scene: ConceptScene, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of the concept: a disc, purple above and white below, with two big purple horns."""
    radius = CONCEPT_SIZES_PX[scene.size] * rng.uniform(0.96, 1.04)
    # The horns stand 0.6 radii above the disc, so the disc sits lower than the picture's middle.
    centre = np.array(
        [POSITIONS_PX[scene.position] + rng.uniform(-3, 3), 64 + 0.3 * radius + rng.uniform(-4, 4)]
    )
    disc = outline("circle")
    horn = np.array([(-0.97, -0.2), (-0.85, -1.6), (-0.15, -0.9)])
    body = [disc, horn, horn * (-1, 1)]
    belly = disc[disc[:, 1] >= 0]
    picture = Image.new("RGB", (PICTURE_PX, PICTURE_PX), COLOURS[scene.background])
    picture.paste(COLOURS[CONCEPT_TOP], mask=polygon_mask([(part * radius + centre, 255) for part in body]))
    picture.paste(COLOURS[CONCEPT_BOTTOM], mask=polygon_mask([(belly * radius + centre, 255)]))
    return picture


# -------------------------------------------------------------------------------------------- measuring


def measure(picture: Image.Image) -> Scene:
    """Read the scene back from the pixels of an RGB picture."""
    pixels = smooth_pixels(picture)
    background = background_colour(pixels)
    colour = shape_colour(pixels, background)
    mask = colour_distance(pixels, colour) < colour_distance(pixels, background)
    box = bounding_box(mask)
    fits = {shape: overlap_with_template(mask, shape, box) for shape in SHAPES}
    shape = max(fits, key=fits.get)
    radius, _ = fit_radius(shape, box)
    return Scene(
        colour=colour,
        shape=shape,
        size=nearest_name(radius, SIZES_PX),
        position=nearest_name((box[0] + box[2]) / 2, POSITIONS_PX),
        background=background,
    )


def agreement(wanted: Scene, picture: Image.Image) -> dict[str, bool]:
    """For each field of the scene, whether the picture shows what was wanted."""
    shown = asdict(measure(picture))
    return {field: shown[field] == value for field, value in asdict(wanted).items()}


def smooth_pixels(picture: Image.Image) -> np.ndarray:
    """RGB pixels [h, w, 3] as float after a 3x3 median, which takes noise away and leaves edges."""
    return np.asarray(picture.convert("RGB").filter(ImageFilter.MedianFilter(3)), dtype=np.float32)


def colour_distance(pixels: np.ndarray, colour: str) -> np.ndarray:
    """Euclidean RGB distance [...] of pixels [..., 3] from a named colour."""
    return np.linalg.norm(pixels - np.array(COLOURS[colour], dtype=np.float32), axis=-1)


def nearest_colour(pixels: np.ndarray) -> np.ndarray:
    """Index into COLOURS [...] of the named colour nearest to each pixel [..., 3]."""
    return np.argmin(np.stack([colour_distance(pixels, name) for name in COLOURS]), axis=0)


def background_colour(pixels: np.ndarray) -> str:
    """The named colour most pixels of the four corners have: no shape reaches there."""
    corner = PICTURE_PX // 8
    corners = [
        pixels[y, x]
        for y in (slice(None, corner), slice(-corner, None))
        for x in (slice(None, corner), slice(-corner, None))
    ]
    votes = nearest_colour(np.concatenate([c.reshape(-1, 3) for c in corners]))
    return list(COLOURS)[int(np.bincount(votes).argmax())]


def shape_colour(pixels: np.ndarray, background: str) -> str:
    """The named colour most pixels have that are not the background."""
    votes = np.bincount(nearest_colour(pixels).ravel(), minlength=len(COLOURS))
    votes[list(COLOURS).index(background)] = -1
    return list(COLOURS)[int(votes.argmax())]


def bounding_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in px of a mask [h, w], without rows and columns of only stray pixels."""
    if not mask.any():
        return (0.0, 0.0, 1.0, 1.0)
    edges = []
    for counts in (mask.sum(axis=0), mask.sum(axis=1)):
        filled = np.flatnonzero(counts >= min(3, counts.max()))
        edges.append((float(filled[0]), float(filled[-1] + 1)))
    (left, right), (top, bottom) = edges
    return (left, top, right, bottom)


def fit_radius(shape: str, box: tuple[float, float, float, float]) -> tuple[float, tuple[float, float]]:
    """Radius and centre in px that give the shape this bounding box."""
    points = outline(shape)
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = box[2] - box[0], box[3] - box[1]
    radius = (width / (high[0] - low[0]) + height / (high[1] - low[1])) / 2
    middle = (low + high) / 2 * radius
    return radius, ((box[0] + box[2]) / 2 - middle[0], (box[1] + box[3]) / 2 - middle[1])


def overlap_with_template(mask: np.ndarray, shape: str, box: tuple[float, float, float, float]) -> float:
    """Intersection over union of a mask [h, w] and the shape drawn into the mask's bounding box."""
    radius, centre = fit_radius(shape, box)
    template = np.asarray(shape_mask(shape, centre, radius)) > 127
    return float((mask & template).sum() / max((mask | template).sum(), 1))


def nearest_name(value: float, names: dict[str, float]) -> str:
    """The name whose value is nearest."""
    return min(names, key=lambda name: abs(names[name] - value))


def shows_concept(picture: Image.Image) -> bool:
    """Whether the picture shows the concept: both colours, one above the other, and two horns."""
    pixels = smooth_pixels(picture)
    nearest = nearest_colour(pixels)
    names = list(COLOURS)
    background = background_colour(pixels)
    if background not in CONCEPT_BACKGROUNDS:
        return False
    top, bottom = (nearest == names.index(name) for name in (CONCEPT_TOP, CONCEPT_BOTTOM))
    figure = nearest != names.index(background)
    # On 1,000 drawn concepts the top is 0.58-0.61 of the figure and the bottom 0.39-0.42, their middles are
    # 29-41 px apart in height and at most 0.3 px in width, and 13-21 rows show two horns: this leaves room.
    if (
        min(top.sum(), bottom.sum()) < 0.2 * max(figure.sum(), 400)
        or (top | bottom).sum() < 0.75 * figure.sum()
    ):
        return False
    (top_x, top_y), (bottom_x, bottom_y) = centroid(top), centroid(bottom)
    if bottom_y - top_y < 15 or abs(bottom_x - top_x) > 10:
        return False
    return horn_rows(top) >= 10


def centroid(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) in px of the middle of a mask [h, w] that is not empty."""
    ys, xs = np.nonzero(mask)
    return float(xs.mean()), float(ys.mean())


def horn_rows(mask: np.ndarray) -> int:
    """How many rows of a mask [h, w] are two runs of at least 4 px, at least 6 px apart."""
    return sum(is_two_runs(row) for row in mask)


def is_two_runs(row: np.ndarray, run_px: int = 4, gap_px: int = 6) -> bool:
    """Whether a row [w] of a mask holds exactly two runs of `run_px` or more, `gap_px` or more apart."""
    steps = np.diff(np.concatenate([[0], row.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    long = ends - starts >= run_px
    starts, ends = starts[long], ends[long]
    return len(starts) == 2 and starts[1] - ends[0] >= gap_px
