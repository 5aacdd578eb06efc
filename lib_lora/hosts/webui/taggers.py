"""The WebUI's own taggers (its Interrogate buttons), loaded on first use; it downloads their weights itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.hosts.webui.turn import Turn

_SIZE_PX = 512  # of the pictures that DeepDanbooru sees


class DeepDanbooru:
    """A ``Tagger`` of anime pictures (modules/deepbooru.py), with Danbooru's ratings."""

    name = "DeepDanbooru"

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __call__(self, picture: Any) -> Mapping[str, float]:
        """Every tag that it knows, as Danbooru spells it, and how sure it is."""
        import numpy as np
        import torch
        from modules import deepbooru, devices, images

        with self._turn.taken(), _weights_of(self.name):
            deepbooru.model.start()
            try:
                square = images.resize_image(2, picture.convert("RGB"), _SIZE_PX, _SIZE_PX)
                pixels = torch.from_numpy(np.array(square, dtype=np.float32)[None] / 255)
                with torch.no_grad(), devices.autocast():
                    sure = deepbooru.model.model(pixels.to(devices.device, devices.dtype))[0].float().tolist()
                return dict(zip(deepbooru.model.model.tags, sure))
            finally:
                deepbooru.model.stop()


class Blip:
    """A ``Tagger`` that gives one sentence (modules/interrogate.py)."""

    name = "BLIP"

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __call__(self, picture: Any) -> Mapping[str, float]:
        from modules import devices, lowvram, shared

        interrogator = shared.interrogator
        with self._turn.taken(), _weights_of(self.name):
            lowvram.send_everything_to_cpu()
            if interrogator.blip_model is None:
                # Without its other model, CLIP, which ranks artists and is not asked.
                blip = interrogator.load_blip_model()
                keep = shared.cmd_opts.no_half or interrogator.running_on_cpu
                interrogator.blip_model = blip if keep else blip.half()
            interrogator.blip_model.to(devices.device_interrogate)
            interrogator.dtype = next(interrogator.blip_model.parameters()).dtype
            try:
                return {interrogator.generate_caption(picture.convert("RGB")): 1.0}
            finally:
                interrogator.send_blip_to_ram()
                devices.torch_gc()


@contextmanager
def _weights_of(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudioError(f"the WebUI cannot load {name}: {error}", field="tagger", came=name) from error
