"""The WebUI's own txt2img, called from within. Wants the turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import PictureRequest

COMMENTS = "comments"  # in a picture's info: the sentences that the WebUI says below it


def make_picture(request: PictureRequest, *, field: str, **more: Any) -> Image.Image | None:
    """A picture in RGB with the WebUI's ``COMMENTS``, or None when somebody has interrupted it.

    Args:
        field: the option that names the sampler.
        more: further arguments of the WebUI's ``StableDiffusionProcessingTxt2Img``.

    Raises:
        StudioError: the WebUI lacks the sampler.
    """
    from modules import shared

    picture = _processed(request, field, more)
    if picture is None or shared.state.interrupted or shared.state.stopping_generation or shared.state.skipped:
        return None
    return picture.convert("RGB")


def _processed(request: PictureRequest, field: str, more: Mapping[str, Any]) -> Image.Image | None:
    from modules import processing, shared

    sampler, scheduler = _sampler(request.sampler, field)
    wanted = processing.StableDiffusionProcessingTxt2Img(
        prompt=request.prompt,
        negative_prompt=request.negative,
        seed=request.seed,
        steps=request.steps,
        sampler_name=sampler,
        scheduler=scheduler,
        cfg_scale=request.cfg_scale,
        width=request.width,
        height=request.height,
        do_not_save_samples=True,
        do_not_save_grid=True,
        **more,
    )
    # The usual ones are shared by all pictures, and would keep the conditioning that the adapters made.
    wanted.cached_c, wanted.cached_uc = [None, None], [None, None]
    try:
        picture = next(iter(processing.process_images(wanted).images), None)
        if picture is not None:
            picture.info[COMMENTS] = list(wanted.comments)
        return picture
    finally:
        wanted.close()
        shared.total_tqdm.clear()


def _sampler(name: str, field: str) -> tuple[str, str]:
    """The WebUI's sampler and schedule of a name that may hold both ("DPM++ 2M Karras").

    Raises:
        StudioError: it knows none of this name, where it would take its first.
    """
    from modules import sd_samplers

    sampler, scheduler = sd_samplers.get_sampler_and_scheduler(name, "Automatic", convert_automatic=False)
    if name != sampler and (scheduler == "Automatic" or not name.startswith(f"{sampler} ")):
        raise StudioError("unknown name", field=field, came=name, allowed=sd_samplers.visible_sampler_names())
    return sampler, scheduler


@contextmanager
def settings_for_a_while(settings: Mapping[str, Any]) -> Iterator[None]:
    """Other settings of the WebUI for a while. One that somebody changes meanwhile stays changed."""
    from modules import shared

    data, absent = shared.opts.data, object()
    before = {name: data.get(name, absent) for name in settings}
    data.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if data.get(name, absent) != settings[name]:
                continue
            if value is absent:
                data.pop(name)
            else:
                data[name] = value


@contextmanager
def no_prompt_history() -> Iterator[None]:
    """The WebUI does not take our pictures' prompts for the last prompt that the user has tried (params.txt)."""
    from modules import shared

    before = shared.cmd_opts.no_prompt_history
    shared.cmd_opts.no_prompt_history = True
    try:
        yield
    finally:
        shared.cmd_opts.no_prompt_history = before
