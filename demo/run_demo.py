"""``python run.py demo``: train the bundled example, then show what came out.

Everything is done by the same commands that a person would use; this file only calls them and puts the pictures
side by side. The result is ``models/Lora/demo.safetensors``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib_lora.base.errors import StudioError  # noqa: E402
from lib_lora.base.options import from_mapping  # noqa: E402
from lib_lora.base.protocols import PictureRequest  # noqa: E402
from lib_lora.cli.train import run_training  # noqa: E402
from lib_lora.files.atomic import atomic_write  # noqa: E402
from lib_lora.files.toml_file import read_toml  # noqa: E402
from lib_lora.hosts.standalone.generator import StandaloneGenerator  # noqa: E402
from lib_lora.models.loader import load_model  # noqa: E402
from lib_lora.training.config import TrainConfig  # noqa: E402
from lib_lora.training.log import font  # noqa: E402
from lib_lora.training.samples import contact_sheet  # noqa: E402

PROMPTS = (
    "zorbi, left, blue background",
    "zorbi, right, green background",
    "zorbi, center, red background",
    "zorbi, large, yellow background",
    "star, yellow, large, center, purple background",
    "circle, green, small, left, white background",
)
PICTURE = {"steps": 25, "sampler": "Euler a", "cfg_scale": 3.0, "width": 128, "height": 128}


@dataclass(frozen=True)
class Demo:
    """What the demo reads and writes."""

    config: TrainConfig

    @property
    def lora(self) -> Path:
        return self.config.output_dir / f"{self.config.output_name}.safetensors"

    @property
    def picture(self) -> Path:
        """Before and after, and the loss curve."""
        return self.config.output_dir / f"{self.config.output_name}.png"

    @property
    def loss_curve(self) -> Path:
        return self.config.output_dir / f"{self.config.output_name}-log" / "loss.png"


def read_config(arguments: list[str]) -> TrainConfig:
    """The options of ``demo/demo.toml``; its paths are relative to the repository."""
    parser = argparse.ArgumentParser(prog="run.py demo", description=__doc__.splitlines()[0])
    parser.add_argument("--max_train_steps", type=int, help="a shorter or longer run")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    values = read_toml(ROOT / "demo" / "demo.toml")
    for name in (
        "pretrained_model_name_or_path",
        "train_data_dir",
        "reg_data_dir",
        "output_dir",
        "sample_prompts",
    ):
        if name in values:
            values[name] = ROOT / values[name]
    return from_mapping(TrainConfig, {**values, **given})


def before_after(demo: Demo) -> Image.Image:
    """Each prompt and seed without the LoRA (above) and with it (below)."""
    model = load_model(demo.config.pretrained_model_name_or_path)
    generator = StandaloneGenerator(model, demo.config.output_dir)
    rows: list[list[Image.Image]] = []
    with tqdm(total=2 * len(PROMPTS), desc="pictures", unit="picture") as bar:
        for lora in ("", f" <lora:{demo.config.output_name}:1>"):
            row = []
            for seed, prompt in enumerate(PROMPTS, start=1):
                row.append(generator.generate(PictureRequest(prompt + lora, seed=seed, **PICTURE)))
                bar.update(1)
            rows.append(row)
    return captioned(rows)


def captioned(rows: list[list[Image.Image]]) -> Image.Image:
    """The rows, half as large again, with the prompts over them and "before" and "after" beside them."""
    sheet = contact_sheet(rows)
    sheet = sheet.resize((sheet.width * 3 // 2, sheet.height * 3 // 2), Image.Resampling.LANCZOS)
    left, top = 76, 60
    page = Image.new("RGB", (left + sheet.width, top + sheet.height), "white")
    page.paste(sheet, (left, top))
    draw = ImageDraw.Draw(page)
    column, row_height = sheet.width / len(PROMPTS), sheet.height / len(rows)
    for index, prompt in enumerate(PROMPTS):
        draw.multiline_text(
            (left + column * (index + 0.5), top - 4),
            _wrapped(prompt),
            fill="#18181b",
            font=font(13),
            anchor="md",
            align="center",
        )
    for index, word in enumerate(("before", "after")):
        draw.text(
            (left - 8, top + row_height * (index + 0.5)), word, fill="#18181b", font=font(15), anchor="rm"
        )
    return page


def with_curve(page: Image.Image, curve: Image.Image) -> Image.Image:
    """The loss curve under the pictures, as wide as they are."""
    curve = curve.resize((page.width, curve.height * page.width // curve.width), Image.Resampling.LANCZOS)
    both = Image.new("RGB", (page.width, page.height + 16 + curve.height), "white")
    both.paste(page, (0, 0))
    both.paste(curve, (0, page.height + 16))
    return both


def _wrapped(prompt: str) -> str:
    """Tags on lines of at most 22 characters."""
    lines = [""]
    for tag in prompt.split(", "):
        grown = f"{lines[-1]}, {tag}" if lines[-1] else tag
        lines = [*lines[:-1], grown] if len(grown) <= 22 else [*lines[:-1], f"{lines[-1]},", tag]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    try:
        demo = Demo(read_config(arguments))
        code = run_training(demo.config)
        if code:
            return code
        page = with_curve(before_after(demo), Image.open(demo.loss_curve))
        with atomic_write(demo.picture) as file:
            page.save(file, format="PNG")
    except StudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nThe LoRA:                          {demo.lora}")
    print(f"Before, after and the loss curve:  {demo.picture}")
    print("\nIn a WebUI that has the demo checkpoint, the prompt is: zorbi, left, blue background <lora:demo:1>")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
