"""What the page's buttons start. Torch is imported here, when something starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Progress, SampleReady
from lib_lora.base.protocols import PictureRequest
from lib_lora.base.signals import Control
from lib_lora.training.config import TrainConfig

Tell = Callable[[Event], None]


def plan_text(config: TrainConfig) -> str:
    """What a run would do, in words."""
    from lib_lora.training.run import make_plan

    return make_plan(config).describe()


def train(config: TrainConfig, control: Control, tell: Tell) -> None:
    """A whole run."""
    from lib_lora.training.run import Run

    for event in Run(config, control).events():
        tell(event)


def sample(config: Any, free_path: Callable[[Path, int], Path], control: Control, tell: Tell) -> None:
    """The pictures of a ``SampleConfig``, each told as it is written.

    Args:
        free_path: names the next picture, from its folder and seed.
    """
    from lib_lora.files.atomic import atomic_write
    from lib_lora.hosts.standalone.generator import StandaloneGenerator
    from lib_lora.models.loader import load_model
    from lib_lora.models.sampling import SAMPLERS
    from lib_lora.training.run import check_writable, choose_device

    SAMPLERS.get(config.sampler)
    for name in ("width", "height"):
        if getattr(config, name) % 8:
            raise StudioError("not allowed", field=name, came=getattr(config, name), allowed="multiples of 8")
    check_writable(config.output_dir)
    tell(Progress("checkpoint", 0, 1))
    model = load_model(config.pretrained_model_name_or_path, vae_path=config.vae, device=choose_device(config.device))
    generator = StandaloneGenerator(model, config.lora_dir)
    done, total = 0, config.images * config.steps

    def on_step(*_: int) -> None:
        nonlocal done
        done += 1
        tell(Progress("sampling steps", done, total))

    for seed in range(config.seed, config.seed + config.images):
        request = PictureRequest(
            prompt=config.prompt, negative=config.negative_prompt, seed=seed, steps=config.steps,
            sampler=config.sampler, cfg_scale=config.cfg_scale, width=config.width, height=config.height,
            clip_skip=config.clip_skip,
        )
        picture = generator.generate(request, control=control, on_step=on_step)
        if picture is None:
            return
        path = free_path(config.output_dir, seed)
        with atomic_write(path) as file:
            picture.save(file, format="PNG")
        tell(SampleReady(path, f"seed {seed}: {config.prompt}", 0))


def checkpoints() -> tuple[str, ...]:
    """The checkpoints in the folders where the WebUI and the demo keep theirs."""
    folders = (Path("models/Stable-diffusion"), Path("demo/model"))
    return tuple(path.as_posix() for folder in folders for path in sorted(folder.rglob("*.safetensors")))


def loras(folder: str) -> list[str]:
    """The names that ``<lora:name:1>`` may take."""
    return sorted({path.stem for path in Path(folder).rglob("*.safetensors")}, key=str.lower) if folder.strip() else []


def network_types() -> list[str]:
    from lib_lora.adapters.network import NETWORKS

    return NETWORKS.names()


def optimizers() -> list[str]:
    from lib_lora.training.optimizers import OPTIMIZERS

    return OPTIMIZERS.names()


def schedules() -> list[str]:
    from lib_lora.training.schedules import SCHEDULES

    return SCHEDULES.names()


def samplers() -> list[str]:
    from lib_lora.models.sampling import SAMPLERS

    return SAMPLERS.names()
