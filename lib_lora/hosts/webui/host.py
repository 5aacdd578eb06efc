"""The AUTOMATIC1111 WebUI as host.

It is made at the WebUI's start: what loads diffusers is imported on first use.
Written against v1.10.1 (commit 82a973c0); what differs in its kin is in ``compat_forge``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_lora.base.protocols import Folders, LoraCheck, ModelFile, Tagger, Waiting
from lib_lora.hosts.webui import checkpoints, environment, loras
from lib_lora.hosts.webui.loaded import load_checkpoint, loaded_model, loaded_vae
from lib_lora.hosts.webui.progress import WebuiTask, task
from lib_lora.hosts.webui.turn import Turn
from lib_lora.training.config import TrainConfig

if TYPE_CHECKING:
    from lib_lora.hosts.webui.generator import WebuiGenerator
    from lib_lora.hosts.webui.lease import WebuiLease


class WebuiHost:
    """The ``Host`` of the process in which the WebUI runs."""

    name = "webui"

    def __init__(self) -> None:
        from modules import launch_utils

        self.version: str = launch_utils.git_tag()
        self.data_dir = environment.data_dir()
        self._turn = Turn()

    def checkpoints(self) -> list[ModelFile]:
        from modules import sd_models

        sd_model = loaded_model()
        loaded = sd_model and os.path.realpath(sd_model.sd_checkpoint_info.filename)
        infos = list(sd_models.checkpoints_list.values())
        return [ModelFile(info.name, Path(info.filename), os.path.realpath(info.filename) == loaded) for info in infos]

    def vaes(self) -> list[ModelFile]:
        from modules import sd_vae

        path = loaded_vae()
        loaded = path and os.path.realpath(path)
        known = list(sd_vae.vae_dict.items())
        return [ModelFile(name, Path(path), os.path.realpath(path) == loaded) for name, path in known]

    def samplers(self) -> list[str]:
        from modules import sd_samplers

        return sd_samplers.visible_sampler_names()

    def taggers(self) -> Sequence[Tagger]:
        from lib_lora.hosts.webui.taggers import Blip, DeepDanbooru

        return DeepDanbooru(self._turn), Blip(self._turn)

    def lora_dir(self) -> Path:
        return environment.lora_dir()

    def checkpoint_dir(self) -> Path:
        """Where a new checkpoint goes."""
        return environment.checkpoint_dir()

    def folders(self) -> Folders:
        return environment.folders()

    def exposed(self) -> bool:
        """Whether others than this machine's user can reach the page."""
        return environment.exposed()

    def train_defaults(self) -> Mapping[str, Any]:
        """What the WebUI's settings say of our options, by option name."""
        return environment.train_defaults()

    def lends(self) -> bool:
        """Whether there is a loaded model to train on."""
        return loaded_model() is not None

    def lend(self, config: TrainConfig) -> WebuiLease:
        """Borrow the loaded model; waits for whoever uses it.

        Raises:
            StudioError: there is none, or one that cannot be trained on, or not as the config says.
        """
        from lib_lora.hosts.webui.lease import WebuiLease

        return WebuiLease(self._turn, config)

    def switch_to(self, checkpoint: Path) -> None:
        """Make the WebUI load another checkpoint.

        Raises:
            StudioError: it does not know the file, or cannot load it.
        """
        info = checkpoints.find(checkpoint)
        with self._turn.taken():
            load_checkpoint(info)

    @contextmanager
    def model_unloaded(self) -> Iterator[Waiting]:
        """The WebUI's model leaves the card for a while and is put back afterwards; nobody uses it meanwhile."""
        from modules import sd_models

        with self._turn.taken():
            sd_model = sd_models.model_data.sd_model
            if sd_model is not None:
                sd_models.unload_model_weights(sd_model)
            try:
                yield self._turn
            finally:
                if sd_model is not None:
                    sd_models.send_model_to_device(sd_model)

    def generator(self, checkpoint: Path | None = None) -> AbstractContextManager[WebuiGenerator]:
        """The WebUI's own txt2img with its current settings.

        Args:
            checkpoint: loaded for a while; nobody else uses the WebUI meanwhile.

        Raises:
            StudioError: it is not known or cannot be loaded, or none is loaded.
        """
        from lib_lora.hosts.webui.generator import generator

        return generator(self._turn, checkpoint)

    def task(self, title: str) -> AbstractContextManager[WebuiTask]:
        """A job in the WebUI's own progress display; to be entered when the model is held."""
        return task(title)

    def lora_written(self, path: Path) -> None:
        """A LoRA file is new or has changed: the WebUI's lists and what it remembers of it are refreshed."""
        with self._turn.taken():
            loras.refresh(path, loaded_model())

    def checkpoint_written(self, path: Path) -> None:
        """A checkpoint's file is new or has changed: the WebUI offers it, and loads it anew where it is loaded.

        Raises:
            StudioError: it cannot be loaded anew.
        """
        with self._turn.taken():
            checkpoints.refresh(path)

    def check_lora(self, path: Path, checkpoint: Path | None = None) -> LoraCheck:
        """Load the file as the WebUI would for a picture, on the loaded model, which is as before afterwards.

        Raises:
            StudioError: no model is loaded, or the WebUI cannot load or apply the file.
        """
        from lib_lora.hosts.webui.lease import clean_model

        with self._turn.taken():
            return loras.check(path, clean_model())
