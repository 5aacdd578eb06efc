"""A network: the adapters of all chosen layers of a model, attached, saved and loaded together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS, Adapter
from lib_lora.adapters.dora import DoraAdapter
from lib_lora.adapters.full import NormAdapter
from lib_lora.adapters.spec import TEXT_ENCODER, UNET, NetworkSpec, NetworkState, Target
from lib_lora.adapters.targets import all_targets, find_targets
from lib_lora.arch.keys import split_key
from lib_lora.base.errors import StudioError


class Unmatched(NamedTuple):
    """Keys of a file that found no place, and names of modules that the file has nothing for."""

    in_file: list[str]
    in_network: list[str]


class Network(nn.Module):
    """Adapters by their names in files. Not attached at first; the model itself is never a part of it.

    ``multiplier`` scales the whole change; at 0 the model's output is exactly its own.
    """

    def __init__(self, adapters: list[Adapter], state: NetworkState, unmatched: list[str] | None = None) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict({adapter.key: adapter for adapter in adapters})
        self.state = state
        self.unmatched = unmatched or []

    @classmethod
    def create(
        cls,
        unet: nn.Module,
        text_encoders: list[nn.Module],
        spec: NetworkSpec,
        seed: int,
        wants: Callable[[Target], bool] = lambda target: True,
    ) -> Network:
        """A fresh network, which changes nothing yet.

        Args:
            wants: whether a layer that ``spec`` names is to be adapted.

        Raises:
            StudioError: an unknown network type, or no layer to adapt.
        """
        kind = NETWORKS.get(spec.network_type)
        state = NetworkState(seed)
        targets = [target for target in find_targets(unet, text_encoders, spec) if wants(target)]
        if not targets:
            raise StudioError("leaves no layer to train", field="block_lr_weight", allowed="a weight above 0")
        made = [_create(kind, target, spec, state) for target in targets]
        adapters = [adapter for adapter in made if adapter is not None]
        if not adapters:
            raise StudioError(
                "only 3x3 convolutions are chosen: these need conv_dim", field="network_targets", came=spec.targets
            )
        return cls(adapters, state)

    @classmethod
    def from_file_tensors(
        cls,
        unet: nn.Module,
        text_encoders: list[nn.Module],
        tensors: Mapping[str, Tensor],
        *,
        strict: bool = True,
        spec: NetworkSpec | None = None,
        seed: int = 0,
    ) -> Network:
        """The network that a file holds; layers, types, ranks and alphas are the file's.

        Args:
            strict: raise for keys that match no layer or no network type; else they end up in ``unmatched``.
            spec: gives the dropouts for training on, and nothing else.

        Raises:
            StudioError: keys do not match (strict), nothing matches, or a tensor does not fit its layer.
        """
        targets, state = all_targets(unet, text_encoders), NetworkState(seed)
        adapters, unmatched = [], []
        for key, own in _by_module(tensors).items():
            adapter = _adapter_from_file(targets.get(key), own, spec, state)
            if adapter is None:
                unmatched += _full_keys(key, own)
            else:
                adapters.append(adapter)
        if unmatched and (strict or not adapters):
            raise _no_match(unmatched)
        if not adapters:
            raise StudioError("the LoRA holds no tensors")
        return cls(adapters, state, unmatched)

    def attach(self) -> None:
        """Change the model's output from now on; twice is once."""
        for adapter in self:
            adapter.attach()

    def detach_from_model(self) -> None:
        """Leave the model as it was found."""
        for adapter in self:
            adapter.detach_from_layer()

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self.adapters.values())

    def __len__(self) -> int:
        return len(self.adapters)

    @property
    def multiplier(self) -> float:
        return self.state.multiplier

    @multiplier.setter
    def multiplier(self, value: float) -> None:
        self.state.multiplier = float(value)

    @contextmanager
    def strength(self, te: float | None = None, unet: float | None = None) -> Iterator[None]:
        """Other strengths of the parts for a while, on top of ``multiplier``; None leaves a part as it is."""
        before = dict(self.state.strengths)
        asked = {TEXT_ENCODER: te, UNET: unet}
        self.state.strengths.update({part: float(value) for part, value in asked.items() if value is not None})
        try:
            yield
        finally:
            self.state.strengths = before

    def set_step(self, step: int, samples: Sequence[int] = ()) -> None:
        """Name the owners of the coming forwards' dropout draws: the step and the batch's pictures."""
        self.state.step, self.state.samples = step, tuple(samples)

    def parameter_groups(
        self, group_of: Callable[[Target, bool], str] = lambda target, plus: target.part
    ) -> dict[str, list[nn.Parameter]]:
        """Parameters by group, the UNet's first; by part ("unet", "text_encoder") where nothing else is asked for.

        Args:
            group_of: of a layer's parameters, and whether they are those that LoRA+ gives another rate.
        """
        groups: dict[str, list[nn.Parameter]] = defaultdict(list)
        for adapter in sorted(self, key=lambda adapter: adapter.target.part != UNET):
            plus = {id(parameter) for parameter in adapter.plus_parameters()}
            for parameter in adapter.parameters():
                groups[group_of(adapter.target, id(parameter) in plus)].append(parameter)
        return dict(groups)

    @property
    def types(self) -> Counter[str]:
        """How many layers there are of each network type; of DoRA it is the type beneath."""
        own = [adapter.inner if isinstance(adapter, DoraAdapter) else adapter for adapter in self]
        return Counter(name for adapter in own for name in NETWORKS if type(adapter) is NETWORKS.get(name))

    @property
    def has_dora(self) -> bool:
        return any(isinstance(adapter, DoraAdapter) for adapter in self)

    @property
    def notes(self) -> list[str]:
        """What is odd about this network, for a person to read."""
        notes = [note for adapter in self if (note := adapter.note())]
        if len(notes) > 1:
            return [f"{notes[0]} (and {len(notes) - 1} more layers like it)"]
        return notes

    def state_tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """What a file keeps: kohya's keys, copies on the CPU, in ``dtype``.

        Whole numbers stay what they are, and an alpha that ``dtype`` cannot hold exactly stays float32, lest saving
        changes the LoRA's strength.
        """
        tensors = {}
        for adapter in self:
            for suffix, tensor in adapter.state_tensors().items():
                cast = tensor.to("cpu", dtype, copy=True)
                exact = tensor.is_floating_point() and (suffix != "alpha" or cast.float() == tensor)
                tensors[f"{adapter.key}.{suffix}"] = cast if exact else tensor
        return tensors

    def load(self, tensors: Mapping[str, Tensor], strict: bool = True) -> Unmatched:
        """Take over a file's values; layers and ranks stay this network's.

        Args:
            strict: raise unless file and network hold exactly the same modules.

        Raises:
            StudioError: modules do not match (strict), or a tensor has another shape; nothing was changed.
        """
        modules = _by_module(tensors)
        matched = {key: own for key, own in modules.items() if key in self.adapters and self.adapters[key].owns(own)}
        unmatched = Unmatched(
            [full for key, own in modules.items() if key not in matched for full in _full_keys(key, own)],
            [key for key in self.adapters if key not in matched],
        )
        if strict and unmatched.in_file:
            raise _other_types(modules.keys() & unmatched.in_network) or _no_match(unmatched.in_file)
        if strict and unmatched.in_network:
            raise StudioError(
                f"the LoRA has nothing for {len(unmatched.in_network)} of the network's {len(self)} modules: "
                + _some(unmatched.in_network)
            )
        for key, own in matched.items():
            self.adapters[key].check(own)
        for key, own in matched.items():
            self.adapters[key].load(own)
        return unmatched


def _by_module(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by module and suffix."""
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        module, suffix = split_key(key)
        modules[module][suffix] = tensor
    return modules


def _create(kind: type[Adapter], target: Target, spec: NetworkSpec, state: NetworkState) -> Adapter | None:
    kind = NormAdapter if target.is_norm else DoraAdapter if spec.dora else kind
    return kind.create(target, spec, state)


def _adapter_from_file(
    target: Target | None, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
) -> Adapter | None:
    if target is None:
        return None
    kinds = (NormAdapter,) if target.is_norm else (*map(NETWORKS.get, NETWORKS), DoraAdapter)
    for kind in kinds:
        if kind.owns(tensors):
            return kind.from_tensors(target, tensors, spec, state)
    return None


def _full_keys(module: str, suffixes: Mapping[str, Tensor]) -> list[str]:
    return [f"{module}.{suffix}" if suffix else module for suffix in suffixes]


def _no_match(keys: list[str]) -> StudioError:
    return StudioError(
        f"{len(keys)} keys of the LoRA match no layer of this model or no network type: {_some(keys)}",
        allowed="a LoRA of this model's family, of a type among " + ", ".join(NETWORKS),
    )


def _other_types(keys: Iterable[str]) -> StudioError | None:
    """Where the file holds layers of the network, but as changes of other types."""
    found = sorted(keys)
    if not found:
        return None
    return StudioError(
        f"{len(found)} layers are of another type in the file than in this network: {_some(found)}",
        allowed="the file's network_type; of GLoRA, whose convolutions are kept as LoRA, dim_from_weights",
    )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:10]) + (", ..." if len(keys) > 10 else "")
