"""Pictures by the WebUI's own generator with the LoRA under training acting, nothing merged into the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL import Image

from lib_lora.adapters.base import Adapter
from lib_lora.adapters.network import Network
from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import PictureRequest
from lib_lora.hosts.webui.loras import place_of
from lib_lora.hosts.webui.progress import state_put_back
from lib_lora.models.model import DiffusionModel
from lib_lora.models.offload import brought_back
from lib_lora.text.extra_networks import has_tags


class WebuiPreviewer:
    """Makes pictures on the lent model, which must be held.

    Attributes:
        sd_model: the WebUI's; None while it is not held.

    Args:
        model: what was lent of it: on a small card both are not needed at once.
        settings: the WebUI's, by which it would switch the model if somebody had changed them meanwhile.
    """

    def __init__(self, sd_model: Any, model: DiffusionModel, settings: Mapping[str, Any]) -> None:
        self.sd_model, self._model, self._settings = sd_model, model, dict(settings)

    def generate(self, request: PictureRequest, network: Network) -> Image.Image | None:
        """A picture in RGB, or None when it was interrupted.

        Raises:
            StudioError: the prompt names a LoRA, or the WebUI lacks the sampler or one of the network's layers.
        """
        if has_tags(request.prompt):
            raise StudioError(
                "previews are made with the LoRA under training alone", field="prompt", came=request.prompt
            )
        settings = {
            **self._settings,
            "CLIP_stop_at_last_layers": request.clip_skip,
            "sd_lora": "None",  # "Add network to prompt": a LoRA in the very weights that are trained on
            "sd_hypernetwork": "None",
            "live_previews_enable": False,  # for which the WebUI may have to download a model
        }
        with ExitStack() as stack:
            stack.enter_context(brought_back(self._model))
            stack.enter_context(acting(network, self.sd_model))
            stack.enter_context(_options(settings))
            stack.enter_context(_no_prompt_history())
            state = stack.enter_context(state_put_back())
            state.job_count, state.job_no = 1, 0
            pictures = _make(request)
            if state.interrupted or state.stopping_generation or state.skipped:
                return None
        return pictures[0].convert("RGB")


def _make(request: PictureRequest) -> list[Image.Image]:
    from modules import processing, shared

    sampler, scheduler = _sampler(request.sampler)
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
        restore_faces=False,
        tiling=False,
        do_not_save_samples=True,
        do_not_save_grid=True,
    )
    # The usual ones are shared by all pictures, and would keep the conditioning that the adapters made.
    wanted.cached_c, wanted.cached_uc = [None, None], [None, None]
    try:
        return processing.process_images(wanted).images
    finally:
        wanted.close()
        shared.total_tqdm.clear()


def _sampler(name: str) -> tuple[str, str]:
    """The WebUI's sampler and schedule of a name that may hold both ("DPM++ 2M Karras").

    Raises:
        StudioError: it knows none of this name, where it would take its first.
    """
    from modules import sd_samplers

    sampler, scheduler = sd_samplers.get_sampler_and_scheduler(name, "Automatic", convert_automatic=False)
    if name != sampler and (scheduler == "Automatic" or not name.startswith(f"{sampler} ")):
        raise StudioError(
            "unknown name", field="sample_sampler", came=name, allowed=sd_samplers.visible_sampler_names()
        )
    return sampler, scheduler


@contextmanager
def acting(network: Network, sd_model: Any) -> Iterator[None]:
    """The network's adapters act on the WebUI's own modules for a while, by hooks.

    Raises:
        StudioError: the WebUI has no layer for one of them.
    """
    attentions: dict[torch.nn.Module, dict[str, Adapter]] = defaultdict(dict)
    with ExitStack() as stack:
        for adapter in network:
            place = place_of(sd_model, adapter.key)
            if place is None:
                raise StudioError("the WebUI's model has no such layer", field=adapter.key)
            if place.part is None:
                stack.callback(place.layer.register_forward_hook(_hook(adapter)).remove)
            else:
                attentions[place.layer][place.part] = adapter
        for attention, parts in attentions.items():
            stack.enter_context(_attention_with(attention, parts))
        yield


def _hook(adapter: Adapter) -> Callable[..., torch.Tensor]:
    def add(layer: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return adapter.add_to(output, args[0], _strength(adapter))

    return add


def _strength(adapter: Adapter) -> float:
    return adapter.state.strength(adapter.target.part)


@contextmanager
def _attention_with(attention: torch.nn.MultiheadAttention, parts: Mapping[str, Adapter]) -> Iterator[None]:
    """open_clip's attention holds q, k and v in one tensor and calls no layer for its output: while it runs, it runs on
    changed copies of its weights."""
    forward = attention.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        with _weights(attention, _changed_inputs(attention, parts)):
            with _weights(attention.out_proj, _changed_output(attention, parts)):
                return forward(*args, **kwargs)

    attention.forward = changed
    try:
        yield
    finally:
        del attention.forward


def _changed_inputs(attention: torch.nn.MultiheadAttention, parts: Mapping[str, Adapter]) -> dict[str, torch.Tensor]:
    weight = attention.in_proj_weight
    deltas = [
        _delta(parts[name], weight) if name in parts else torch.zeros_like(rows)
        for name, rows in zip(("q_proj", "k_proj", "v_proj"), weight.chunk(3))
    ]
    return {"in_proj_weight": weight + torch.cat(deltas)}


def _changed_output(attention: torch.nn.MultiheadAttention, parts: Mapping[str, Adapter]) -> dict[str, torch.Tensor]:
    weight = attention.out_proj.weight
    return {"weight": weight + _delta(parts["out_proj"], weight)} if "out_proj" in parts else {}


def _delta(adapter: Adapter, like: torch.Tensor) -> torch.Tensor:
    return (_strength(adapter) * adapter.dense_delta()).to(like)


@contextmanager
def _weights(module: torch.nn.Module, changed: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Other tensors in the places of some parameters, which themselves are not touched."""
    own = {name: module._parameters[name] for name in changed}
    module._parameters.update({name: torch.nn.Parameter(tensor, False) for name, tensor in changed.items()})
    try:
        yield
    finally:
        module._parameters.update(own)


@contextmanager
def _options(settings: Mapping[str, Any]) -> Iterator[None]:
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
def _no_prompt_history() -> Iterator[None]:
    """The WebUI does not take a preview for the last prompt that the user has tried (params.txt)."""
    from modules import shared

    before = shared.cmd_opts.no_prompt_history
    shared.cmd_opts.no_prompt_history = True
    try:
        yield
    finally:
        shared.cmd_opts.no_prompt_history = before
