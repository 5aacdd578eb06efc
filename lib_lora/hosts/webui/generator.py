"""Pictures by the WebUI's own txt2img, with its current settings, between those that people make."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import PictureRequest
from lib_lora.base.signals import Control
from lib_lora.hosts.webui import checkpoints
from lib_lora.hosts.webui.block_weights import SAYS
from lib_lora.hosts.webui.loaded import load_checkpoint, load_chosen, loaded_vae
from lib_lora.hosts.webui.loras import not_acting
from lib_lora.hosts.webui.turn import Turn
from lib_lora.hosts.webui.txt2img import COMMENTS, make_picture, no_prompt_history, settings_for_a_while
from lib_lora.text.extra_networks import split_tags
from lib_lora.weights.blocks.words import tag_name

_JOB = "LoRA Studio's pictures"
_FAULTS = (SAYS, "Lora not found: ", "Networks with errors: ")  # ours, and the WebUI's, of LoRAs in a prompt
_INFOTEXT = "parameters"
_POLL_SECONDS = 0.1


class WebuiGenerator:
    """A ``Generator`` on the checkpoint that the WebUI's settings name. Each picture waits for its turn.

    Args:
        checkpoint: its file; with another one there are no pictures.
    """

    def __init__(self, turn: Turn, checkpoint: str) -> None:
        self._turn = turn
        self._checkpoint = os.path.realpath(checkpoint)

    @property
    def settings(self) -> str:
        """The checkpoint, the VAE, and every setting that the WebUI counts among what makes a picture."""
        from modules import shared

        labels = shared.opts.data_labels.items()
        names = sorted(name for name, label in labels if getattr(label, "infotext", None))
        file = [self._checkpoint, os.stat(self._checkpoint).st_mtime_ns]
        return json.dumps([file, str(loaded_vae()), [shared.opts.data.get(name) for name in names]])

    def generate(self, request: PictureRequest, *, control: Control | None = None) -> Image.Image | None:
        """A picture in RGB, or None when it was interrupted or ``control`` asked to stop.

        Raises:
            StudioError: the WebUI lacks the sampler, another checkpoint is chosen by now, or a LoRA did not act as the
                prompt says.
        """
        settings: dict[str, Any] = {"live_previews_enable": False}  # for which it may have to download a model
        if request.clip_skip is not None:
            settings["CLIP_stop_at_last_layers"] = request.clip_skip
        with ExitStack() as stack:
            stack.enter_context(self._turn.taken())
            if control is not None and control.stopping:
                return None
            load_chosen()
            self._check_checkpoint()
            stack.enter_context(settings_for_a_while(settings))
            stack.enter_context(no_prompt_history())
            stack.enter_context(_work(control))
            picture = make_picture(request, field="sampler")
            if picture is None:
                return None
            self._check_checkpoint()  # that somebody has chosen another since
            _check_loras(request.prompt, picture.info[COMMENTS])
        return _with_tags(picture, request.prompt)

    def prediction_changes(self, texts: Sequence[tuple[str, str, int]]) -> list[float]:
        """As ``evaluate.prediction_change`` has it; on the WebUI's own tensors, less what a prompt's LoRA left in them.

        Raises:
            StudioError: another checkpoint is chosen by now.
        """
        from lib_lora.evaluate.prediction_change import prediction_change
        from lib_lora.hosts.webui.bridge import as_model, let_go
        from lib_lora.hosts.webui.lease import clean_model
        from lib_lora.models.offload import bring_back, keep_on_card

        with self._turn.taken():
            load_chosen()
            self._check_checkpoint()
            model = as_model(clean_model())
            try:
                keep_on_card(model, *model.modules())
                return [prediction_change(model, *each) for each in texts]
            finally:
                bring_back(model)
                let_go(model)

    def _check_checkpoint(self) -> None:
        now = os.path.realpath(_loaded().sd_checkpoint_info.filename)
        if now != self._checkpoint:
            raise StudioError(
                "another checkpoint was loaded meanwhile, whose pictures cannot be compared with these",
                field="checkpoint",
                came=os.path.basename(now),
                allowed=os.path.basename(self._checkpoint),
            )


def _check_loras(prompt: str, comments: Iterable[str]) -> None:
    """That all LoRAs acted in the picture just made, and as the prompt says: the WebUI makes it without them, too.

    Raises:
        StudioError: naming those that did not.
    """
    faults = [comment for comment in comments if comment.startswith(_FAULTS)]
    faults += not_acting([tag_name(items) for items in split_tags(prompt)[1]])
    if faults:
        raise StudioError("; ".join(faults), field="lora", came=prompt)


def _with_tags(picture: Image.Image, prompt: str) -> Image.Image:
    """A picture whose infotext has the whole prompt: without scripts the WebUI leaves its LoRAs out."""
    from modules import extra_networks

    text, (written, _) = picture.info.get(_INFOTEXT, ""), extra_networks.parse_prompt(prompt)
    if text.startswith(written):
        picture.info[_INFOTEXT] = prompt + text[len(written) :]
    return picture


@contextmanager
def generator(turn: Turn, checkpoint: Path | None) -> Iterator[WebuiGenerator]:
    """With another checkpoint than the chosen one the WebUI is nobody else's meanwhile, and has its own back then.

    Raises:
        StudioError: the checkpoint is not known, cannot be loaded, or none is loaded.
    """
    with turn.taken():
        chosen = load_chosen()
    if checkpoint is None or os.path.realpath(checkpoint) == os.path.realpath(chosen.filename):
        yield WebuiGenerator(turn, chosen.filename)
        return
    info = checkpoints.find(checkpoint)
    with turn.taken():
        before = load_chosen()
        load_checkpoint(info)
        try:
            yield WebuiGenerator(turn, info.filename)
        finally:
            if _is_chosen(info):  # else somebody has chosen another since, who waits for it
                load_checkpoint(before)


@contextmanager
def _work(control: Control | None) -> Iterator[None]:
    """The WebUI shows a picture as its work; a stop interrupts it within a step."""
    from modules import shared

    shared.state.begin(job=_JOB)
    over = threading.Event()
    if control is not None:
        threading.Thread(target=_interrupt_when, args=(control, over), name="lora-studio-stop", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        shared.state.end()


def _interrupt_when(control: Control, over: threading.Event) -> None:
    from modules import shared

    while not over.wait(_POLL_SECONDS):
        if control.stopping:
            shared.state.interrupt()
            return


def _loaded() -> Any:
    """The WebUI's model, which it loads now if it has not come to it yet."""
    from modules import shared

    if shared.sd_model is None or getattr(shared.sd_model, "sd_checkpoint_info", None) is None:
        raise StudioError("the WebUI has no model loaded", field="checkpoint", allowed="choose a checkpoint first")
    return shared.sd_model


def _is_chosen(info: Any) -> bool:
    from modules import sd_models

    return os.path.realpath(sd_models.select_checkpoint().filename) == os.path.realpath(info.filename)
