"""What the page's buttons start. Torch is imported here, when something starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lib_lora.base.events import Event
from lib_lora.base.signals import Control
from lib_lora.training.config import TrainConfig

Tell = Callable[[Event], None]


def plan_text(config: TrainConfig) -> str:
    """What a run would do, in words."""
    from lib_lora.training.planning import make_plan

    return make_plan(config).describe()


def train(config: TrainConfig, control: Control, tell: Tell) -> None:
    """A whole run."""
    from lib_lora.training.run import Run

    for event in Run(config, control).events():
        tell(event)


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
