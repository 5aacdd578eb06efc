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
from lib_lora.hosts.webui.txt2img import make_picture, no_prompt_history, settings_for_a_while
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
            stack.enter_context(settings_for_a_while(settings))
            stack.enter_context(no_prompt_history())
            state = stack.enter_context(state_put_back())
            state.job_count, state.job_no = 1, 0
            return make_picture(request, field="sample_sampler", restore_faces=False, tiling=False)


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
    adapter, layer = parts.get("out_proj"), attention.out_proj
    if adapter is None:
        return {}
    changed, bias = {"weight": layer.weight + _delta(adapter, layer.weight)}, adapter.bias_delta()
    return changed if bias is None else {**changed, "bias": layer.bias + (_strength(adapter) * bias).to(layer.bias)}


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
