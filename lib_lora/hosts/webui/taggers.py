"""The WebUI's own taggers (its Interrogate buttons), loaded on first use; it downloads their weights itself.

The WebUI's turn is taken for each batch, and given back between two: who presses Generate meanwhile is next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Label
from lib_lora.hosts.webui.turn import Turn

if TYPE_CHECKING:
    import numpy as np

_SIZE_PX = 512  # of the pictures that DeepDanbooru sees
_RATING = "rating:"
_LONGEST_REASON = 300


class DeepDanbooru:
    """A ``Tagger`` of anime pictures (modules/deepbooru.py), with Danbooru's ratings. It knows no categories."""

    name = "DeepDanbooru"
    help = "anime; the WebUI's own, older than the others"
    general = character = 0.5
    sentence = False
    model = ""
    note: str | None = None
    batch_size: int | None = None

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.labels: list[Label] = []

    def __enter__(self) -> DeepDanbooru:
        from modules import deepbooru

        # Where the WebUI's loading fails, it keeps a model with random weights and no tags, and takes it for loaded.
        if deepbooru.model.model is not None and not deepbooru.model.model.tags:
            deepbooru.model.model = None
        with _weights_of(self.name):
            deepbooru.model.load()
        tags = deepbooru.model.model.tags
        self.labels = [Label(tag, "rating" if tag.startswith(_RATING) else "general") for tag in tags]
        return self

    def __exit__(self, *exception: object) -> None:
        """What stays in main memory is for the WebUI to keep."""

    def prepare(self, picture: Any) -> np.ndarray:
        return fitted(picture)

    def __call__(self, prepared: Sequence[np.ndarray]) -> list[Mapping[Label, float]]:
        import numpy as np
        import torch
        from modules import deepbooru, devices

        from lib_lora.tagging.scores import sparse

        with self._turn.taken():
            deepbooru.model.start()
            try:
                pixels = torch.from_numpy(np.stack(prepared).astype(np.float32) / 255)
                with torch.no_grad(), devices.autocast():
                    scores = deepbooru.model.model(pixels.to(devices.device, devices.dtype)).float().cpu().numpy()
            finally:
                deepbooru.model.stop()
        return [sparse(self.labels, row) for row in scores]


class Blip:
    """A ``Tagger`` that gives one sentence (modules/interrogate.py)."""

    name = "BLIP"
    help = "one sentence about any picture; the WebUI's own"
    general = character = 0.5  # of tags, which it has none of
    sentence = True
    labels: Sequence[Label] = ()
    model = ""
    note: str | None = None
    batch_size: int | None = None

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __enter__(self) -> Blip:
        from modules import shared

        interrogator = shared.interrogator
        if interrogator.blip_model is None:
            # Not by its ``load``, which also fetches CLIP, that ranks artists and is not asked.
            with _weights_of(self.name):
                blip = interrogator.load_blip_model()
            keep = shared.cmd_opts.no_half or interrogator.running_on_cpu
            interrogator.blip_model = blip if keep else blip.half()
        return self

    def __exit__(self, *exception: object) -> None:
        """What stays in main memory is for the WebUI to keep."""

    def prepare(self, picture: Any) -> Any:
        return picture

    def __call__(self, prepared: Sequence[Any]) -> list[Mapping[Label, float]]:
        from modules import devices, lowvram, shared

        interrogator = shared.interrogator
        with self._turn.taken():
            lowvram.send_everything_to_cpu()
            interrogator.blip_model.to(devices.device_interrogate)
            interrogator.dtype = next(interrogator.blip_model.parameters()).dtype
            try:
                return [{Label(interrogator.generate_caption(picture), "sentence"): 1.0} for picture in prepared]
            finally:
                interrogator.send_blip_to_ram()
                devices.torch_gc()


def fitted(picture: Any) -> np.ndarray:
    """uint8 [512, 512, 3]: a picture whole in the middle, and its borders drawn out to the square's.

    As the WebUI's ``images.resize_image`` in mode 2, but always by Lanczos: that would run the upscaler that is set for
    img2img on every small picture.
    """
    import numpy as np
    from PIL import Image

    scale = _SIZE_PX / max(picture.size)
    size = tuple(_SIZE_PX if side == max(picture.size) else max(1, int(side * scale)) for side in picture.size)
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    left, top = (_SIZE_PX // 2 - side // 2 for side in size)
    borders = ((top, _SIZE_PX - top - size[1]), (left, _SIZE_PX - left - size[0]), (0, 0))
    return np.pad(pixels, borders, mode="edge")


@contextmanager
def _weights_of(name: str) -> Iterator[None]:
    try:
        yield
    except IndexError as error:  # its loader swallows why a download failed, and takes the first of no files
        raise StudioError(f"the WebUI could not download {name}", field="taggers", came=name) from error
    except Exception as error:  # and what its loader of weights raises has no common class
        reason = (str(error) or type(error).__name__)[:_LONGEST_REASON]
        raise StudioError(f"the WebUI cannot load {name}: {reason}", field="taggers", came=name) from error
