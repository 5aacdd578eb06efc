"""The WebUI's loaded model, lent to a job: taken under its queue lock, given back exactly as it was.

Nothing of the WebUI's has to be restored after a job, however that ended: its modules are only looked at, its tensors
only read. What is undone is done before the job: a prompt's LoRA is taken out of the weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.files.file_hashes import remember_sha256
from lib_lora.hosts.webui.bridge import as_model, checksums, let_go, rebind
from lib_lora.hosts.webui.compat_forge import free_card, is_forge
from lib_lora.hosts.webui.loaded import load_checkpoint, loaded_model, loaded_vae
from lib_lora.hosts.webui.loras import networks_module, undo_loras
from lib_lora.hosts.webui.previewer import WebuiPreviewer
from lib_lora.hosts.webui.turn import Turn
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.planning import HASHES, cache_folder

# By these the WebUI decides which weights it has: with others it would load anew at the next picture.
_SETTINGS = ("sd_model_checkpoint", "sd_vae", "fp8_storage")


@dataclass(frozen=True)
class Lent:
    """What was lent, to be recognised: the checkpoint's and the VAE's file and the weights."""

    info: Any
    vae: Path | None
    sums: list[int]
    settings: dict[str, Any]

    @classmethod
    def of(cls, sd_model: Any) -> Lent:
        from modules import shared

        settings = {name: shared.opts.data[name] for name in _SETTINGS if name in shared.opts.data}
        settings["sd_model_checkpoint"] = sd_model.sd_checkpoint_info.title
        return cls(sd_model.sd_checkpoint_info, loaded_vae(), checksums(sd_model), settings)

    def difference(self, now: Lent) -> str | None:
        """What is another now, in words for a person; None where nothing is."""
        if _real(now.info.filename) != _real(self.info.filename):
            return f"the WebUI has loaded {now.info.name} and not {self.info.name}"
        if _real(now.vae) != _real(self.vae):
            return f"the WebUI has loaded the VAE {_named(now.vae)} and not {_named(self.vae)}"
        return None if now.sums == self.sums else f"the weights of {self.info.name} in the WebUI have changed"


class WebuiLease:
    """The loaded model in a job's hands. Made by ``WebuiHost.lend``; it is held at first.

    Raises:
        StudioError: there is no model, or the config asks for another device or VAE.
    """

    def __init__(self, turn: Turn, config: TrainConfig) -> None:
        self._turn = turn
        self._held = True
        self.previewer: WebuiPreviewer | None = None
        turn.take()
        try:
            sd_model = clean_model()
            _check(config)
            self._lent = Lent.of(sd_model)
            self.model: DiffusionModel = as_model(sd_model)
            _tell_hash(self._lent.info, config)
            self.notes = tuple(_notes(self.model))
            if _shows_adapters(sd_model):
                self.previewer = WebuiPreviewer(sd_model, self.model, self._lent.settings)
        except BaseException:
            self.give_back()
            raise

    def somebody_waits(self) -> bool:
        return self._turn.somebody_waits()

    def give_back(self) -> None:
        """Let go of the tensors and of the turn. Twice is once."""
        if not self._held:
            return
        self._held = False
        try:
            if hasattr(self, "model"):
                let_go(self.model)
            if self.previewer is not None:
                self.previewer.sd_model = None
            _collect()
        finally:
            self._turn.give()

    def take_again(self, *, put_back: bool) -> None:
        """Wait for the turn and borrow the same weights again; ``model`` stays the same object.

        Checkpoint and VAE are compared by their files, the weights by ``bridge.checksums``.

        Args:
            put_back: load what was lent where the user has switched.

        Raises:
            StudioError: another model is loaded now, or its weights have changed; nothing is held then.
        """
        if self._held:
            return
        self._held = True
        self._turn.take()
        try:
            sd_model = self._same_again(put_back)
            rebind(self.model, as_model(sd_model, self.model.compute_dtype))
            if self.previewer is not None:
                self.previewer.sd_model = sd_model
        except BaseException:
            self.give_back()
            raise

    def _same_again(self, put_back: bool) -> Any:
        remedies = [_put_back, _load_anew] if put_back else []
        while True:
            sd_model = clean_model()
            difference = self._lent.difference(Lent.of(sd_model))
            if difference is None:
                return sd_model
            if not remedies:
                break
            remedies.pop(0)(self._lent)
        raise StudioError(difference, field="on_switch", allowed=f"resume with {self._lent.info.name} loaded")


def clean_model() -> Any:
    """The loaded model without what a prompt's LoRA left in it, in main memory as a whole where parts of it are.

    Raises:
        StudioError: none is loaded, or one that cannot be trained on.
    """
    from modules import lowvram, shared

    sd_model = shared.sd_model and loaded_model()  # the first loads one, if the WebUI has not come to it yet
    if sd_model is None:
        raise StudioError(
            "the WebUI has no model loaded that can be trained on",
            field="checkpoint",
            allowed="choose a checkpoint of SD1, SD2 or SDXL first",
        )
    undo_loras(sd_model)
    if is_forge(sd_model):
        free_card()
    elif sd_model.lowvram:
        lowvram.send_everything_to_cpu()
    return sd_model


def _put_back(lent: Lent) -> None:
    """Load the lent checkpoint and VAE again, where others are loaded."""
    from modules import sd_vae, shared

    if not os.path.isfile(lent.info.filename):
        raise StudioError("is not there any more and cannot be loaded again", file=lent.info.filename)
    shared.opts.data.update(lent.settings)
    load_checkpoint(lent.info)
    if _real(loaded_vae()) != _real(lent.vae):
        sd_vae.reload_vae_weights(vae_file=str(lent.vae) if lent.vae else None)


def _load_anew(lent: Lent) -> None:
    """Load the lent checkpoint from its file although it is loaded: somebody has changed its weights."""
    load_checkpoint(lent.info, anew=True)


def _check(config: TrainConfig) -> None:
    from modules import devices

    device, vae = str(devices.device), loaded_vae()
    if config.device != "auto" and config.device.partition(":")[0] != device.partition(":")[0]:
        raise StudioError(
            "the WebUI's model is on another device", field="device", came=config.device, allowed=f"auto, {device}"
        )
    if config.vae is not None and _real(config.vae) != _real(vae):
        raise StudioError("the WebUI has another VAE loaded", field="vae", came=str(config.vae), allowed=_named(vae))


def _tell_hash(info: Any, config: TrainConfig) -> None:
    """The run need not read the whole checkpoint for a hash that the WebUI knows."""
    from modules import hashes

    known = hashes.sha256_from_cache(info.filename, f"checkpoint/{info.name}")
    if known and known == info.sha256:
        remember_sha256(info.filename, cache_folder(config) / HASHES, known)


def _notes(model: DiffusionModel) -> list[str]:
    """What a person should know of how the model is lent."""
    notes = []
    if not model.borrowed:
        why = "in 8 bits" if _kept_in_8_bits() else "in a form that cannot be trained on"
        notes.append(f"the WebUI keeps its weights {why}: {model.path.name} is read from its file instead")
    elif _kept_in_8_bits():
        notes.append("the WebUI keeps its weights in 8 bits: its 16-bit copies are trained on")
    if model.resting:
        notes.append("the WebUI's model waits in main memory: its parts are copied to the card while they are needed")
    if model.vae_path:
        notes.append(f"pictures are encoded by the VAE that the WebUI has loaded, {model.vae_path.name}")
    return notes


def _kept_in_8_bits() -> bool:
    from modules import devices

    return bool(devices.fp8)


def _shows_adapters(sd_model: Any) -> bool:
    """Whether the LoRA under training can be hooked onto what the WebUI computes with."""
    if is_forge(sd_model) or networks_module() is None:
        return False
    from modules import sd_unet

    return sd_unet.current_unet is None


def _collect() -> None:
    from modules import devices

    devices.torch_gc()


def _real(path: str | os.PathLike | None) -> str | None:
    return os.path.realpath(path) if path else None


def _named(vae: Path | None) -> str:
    return vae.name if vae else "none but the checkpoint's own"
