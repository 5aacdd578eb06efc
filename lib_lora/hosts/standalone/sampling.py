"""``sample``: pictures from a checkpoint and LoRAs, written to a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, SampleReady
from lib_lora.base.options import REQUIRED, option
from lib_lora.base.protocols import PictureRequest
from lib_lora.base.signals import Control


@dataclass(frozen=True)
class SampleConfig:
    """The options of ``sample``."""

    pretrained_model_name_or_path: Path = option(
        REQUIRED, "checkpoint: .safetensors, .ckpt, .pt, or a folder in diffusers' layout"
    )
    vae: Path | None = option(
        None, "VAE that replaces the checkpoint's own: .safetensors, .ckpt, .pt, .bin, or diffusers' folder"
    )
    prompt: str = option(REQUIRED, "what to draw; <lora:name:1> takes a LoRA from lora_dir")
    negative_prompt: str = option("", "what not to draw")
    lora_dir: Path = option(Path("models/Lora"), "folder of LoRAs")
    output_dir: Path = option(Path("outputs"), "folder for the pictures")
    images: int = option(1, "number of pictures; each has the next seed", minimum=1)
    seed: int = option(1, "seed of the first picture", minimum=0, maximum=2**63 - 1)
    steps: int = option(20, "sampling steps", minimum=1, maximum=1000)
    sampler: str = option("Euler a", "sampler")
    cfg_scale: float = option(7.0, "how closely the prompt is followed", minimum=0)
    width: int = option(512, "width", unit="px", minimum=64)
    height: int = option(512, "height", unit="px", minimum=64)
    clip_skip: int = option(
        1, "text encoder layer to take, counted from the end (SD1; the others have theirs)", minimum=1, maximum=12
    )
    prediction_type: str = option(
        "auto",
        "what the UNet predicts; auto finds out",
        choices=("auto", "epsilon", "v_prediction"),
        level="advanced",
    )
    zero_terminal_snr: str = option(
        "auto",
        "noise schedule that ends in noise alone; auto finds out",
        choices=("auto", "on", "off"),
        level="advanced",
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", level="advanced")


def sample(config: SampleConfig, control: Control, tell: Callable[[Event], None]) -> None:
    """Write the pictures, each told as it is written; ends early when ``control`` asks for it.

    Raises:
        StudioError: naming the option or file at fault.
    """
    # Heavy imports come with the work: forms and flags are made of the options above.
    from lib_lora.files.atomic import atomic_write, check_writable
    from lib_lora.hosts.standalone.generator import StandaloneGenerator
    from lib_lora.models.device import choose_device
    from lib_lora.models.loader import load_model
    from lib_lora.models.prediction import describe_prediction, override_prediction
    from lib_lora.models.sampling import SAMPLERS

    SAMPLERS.get(config.sampler)
    for name in ("width", "height"):
        if getattr(config, name) % 8:
            raise StudioError("not allowed", field=name, came=getattr(config, name), allowed="multiples of 8")
    check_writable(config.output_dir, field="output_dir")
    tell(Progress("checkpoint", 0, 1))
    model = load_model(config.pretrained_model_name_or_path, vae_path=config.vae, device=choose_device(config.device))
    override_prediction(model, config.prediction_type, config.zero_terminal_snr)
    tell(Progress("checkpoint", 1, 1))
    tell(Note(*describe_prediction(model)))
    generator = StandaloneGenerator(model, config.lora_dir)
    done, total = 0, config.images * config.steps

    def on_step(*_: int) -> None:
        nonlocal done
        done += 1
        tell(Progress("sampling steps", done, total))

    for seed in range(config.seed, config.seed + config.images):
        picture = generator.generate(_request(config, seed), control=control, on_step=on_step)
        if picture is None:
            return
        path = free_path(config.output_dir, seed)
        with atomic_write(path) as file:
            picture.save(file, format="PNG")
        tell(SampleReady(path, f"seed {seed}: {config.prompt}", 0))


def _request(config: SampleConfig, seed: int) -> PictureRequest:
    return PictureRequest(
        prompt=config.prompt,
        negative=config.negative_prompt,
        seed=seed,
        steps=config.steps,
        sampler=config.sampler,
        cfg_scale=config.cfg_scale,
        width=config.width,
        height=config.height,
        clip_skip=config.clip_skip,
    )


def free_path(folder: Path, seed: int) -> Path:
    """The next free name ``00000-<seed>.png``: an earlier picture is never overwritten."""
    numbers = [int(path.name.split("-")[0]) for path in folder.glob("*-*.png") if path.name.split("-")[0].isdigit()]
    return folder / f"{max(numbers, default=-1) + 1:05d}-{seed}.png"
