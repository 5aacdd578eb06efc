"""What all network types share: the adapter of one frozen layer, and what its network tells it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.base.errors import StudioError
from lib_lora.base.registry import Registry
from lib_lora.base.seeds import derive_seed


class Adapter(nn.Module, ABC):
    """A trainable change of one frozen layer: y = layer(x) + strength * delta(x).

    It hangs on the layer by a forward hook, or takes the layer's ``forward`` over where the two together cost less,
    and leaves weights and flags of the layer as they are. Its parameters are float32 whatever the layer's dtype is; it
    computes in float32, or in autocast's dtype.
    """

    # Suffixes of the type's keys in files: those it cannot do without, and those that may be missing.
    needs: ClassVar[frozenset[str]]
    may_have: ClassVar[frozenset[str]] = frozenset()
    # Whether it has a ``run`` of its own, and whether DoRA can be put on top of it.
    takes_over: ClassVar[bool] = False
    has_dora: ClassVar[bool] = False

    def __init__(self, target: Target, state: NetworkState, module_dropout: float | None = None) -> None:
        super().__init__()
        if target.is_conv and (target.layer.groups != 1 or target.layer.padding_mode != "zeros"):
            raise ValueError(f"{target.module_name}: grouped and circular convolutions have no adapter")
        # In a tuple, lest the frozen layer becomes a part of this module and its weights are trained and saved.
        self._target = (target,)
        self._handle: torch.utils.hooks.RemovableHandle | None = None
        self._own_forward: tuple[Callable[[Tensor], Tensor] | None] | None = None  # while the layer's is taken over
        self.state = state
        self.module_dropout = module_dropout or 0.0

    @property
    def target(self) -> Target:
        return self._target[0]

    @property
    def key(self) -> str:
        return self.target.key

    @classmethod
    @abstractmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> Adapter | None:
        """A fresh adapter that changes nothing yet, or None where the spec gives the layer none."""

    @classmethod
    @abstractmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> Adapter:
        """The adapter that a file's tensors (by suffix) describe; of ``spec`` it takes the dropouts alone.

        Raises:
            StudioError: the tensors do not fit the layer.
        """

    @classmethod
    def owns(cls, suffixes: Iterable[str]) -> bool:
        """Whether a file's suffixes of one module are this type's."""
        suffixes = set(suffixes)
        return cls.needs <= suffixes <= cls.needs | cls.may_have

    @abstractmethod
    def delta(self, x: Tensor) -> Tensor:
        """The change of the layer's output for input ``x``, before strength; shapes as the layer's own."""

    @abstractmethod
    def dense_delta(self) -> Tensor:
        """The change of the layer's weight, before strength: float32, shape of the weight."""

    def bias_delta(self) -> Tensor | None:
        """The change of the layer's bias, before strength; None where it stays as it is."""
        return None

    def low_rank(self) -> tuple[Tensor, Tensor, float]:
        """(up [out, r], down [r, in * kh * kw], scale): the change is scale * up @ down, reshaped.

        Raises:
            NotImplementedError: this type's change has no low rank.
        """
        raise NotImplementedError

    @abstractmethod
    def parts(self) -> dict[str, Tensor]:
        """Its parameters by their suffixes in files."""

    def state_tensors(self) -> dict[str, Tensor]:
        """What a file keeps, by suffix, float32."""
        return {suffix: tensor.detach() for suffix, tensor in self.parts().items()}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Look whether a file's tensors, by suffix, could be loaded.

        Raises:
            StudioError: they have other shapes than this adapter.
        """
        for suffix, parameter in self.parts().items():
            self.fitted(suffix, tensors, parameter)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a file's tensors, by suffix; raises as ``check`` does, and then nothing was changed."""
        fitted = [(own, self.fitted(suffix, tensors, own)) for suffix, own in self.parts().items()]
        with torch.no_grad():
            for parameter, tensor in fitted:
                parameter.copy_(tensor)

    def fitted(self, suffix: str, tensors: Mapping[str, Tensor], parameter: Tensor) -> Tensor:
        """A file's tensor in the parameter's shape; raises as ``check`` does."""
        # Some files hold a 1x1 convolution's matrices without the two ones.
        wanted = list(parameter.shape)
        shape = list(tensors[suffix].shape) if suffix in tensors else None
        if shape is None or _without_ones(shape) != _without_ones(wanted):
            raise StudioError(
                "does not fit: the LoRA is for another model family, of another type, or has another rank",
                field=f"{self.key}.{suffix}",
                came=shape,
                allowed=f"shape {wanted}",
            )
        return tensors[suffix].reshape(wanted)

    def note(self) -> str | None:
        """Something odd about this adapter that a person may want to know."""
        return None

    def draw(self, parameter: Tensor, name: str = "", *, deviation: float | None = None) -> None:
        """Fill a parameter with N(0, deviation^2), or with kaiming_uniform(a = sqrt 5): +-1 / sqrt(fan_in)."""
        if parameter.is_meta:
            return
        owner = (self.key, name) if name else (self.key,)
        generator = torch.Generator("cpu").manual_seed(derive_seed(self.state.seed, "init", *owner))
        values = torch.empty(parameter.shape)
        if deviation is None:
            bound = 1 / math.sqrt(parameter[0].numel())
            values.uniform_(-bound, bound, generator=generator)
        else:
            values.normal_(0, deviation, generator=generator)
        with torch.no_grad():
            parameter.copy_(values)

    def plus_parameters(self) -> list[nn.Parameter]:
        """Those that LoRA+ gives a higher learning rate (arXiv 2402.12354)."""
        return []

    def attach(self) -> None:
        """Change the layer's output from now on; twice is once."""
        if self.attached:
            return
        layer = self.target.layer
        own = vars(layer).get("forward")
        # Another LoRA's adapter that has taken it over would not know this one's layer: this one adds to it.
        if self.takes_over and not isinstance(getattr(own, "__self__", None), Adapter):
            self._own_forward = (own,)
            layer.forward = self._forward
        else:
            self._handle = layer.register_forward_hook(self._hook)

    def detach_from_layer(self) -> None:
        """Leave the layer as it was found."""
        if self._own_forward is not None:
            del self.target.layer.forward
            if self._own_forward[0] is not None:
                self.target.layer.forward = self._own_forward[0]
            self._own_forward = None
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @property
    def attached(self) -> bool:
        return self._handle is not None or self._own_forward is not None

    def _hook(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        strength = self._strength_now()
        return self.add_to(output, args[0], strength) if strength else None

    def _forward(self, x: Tensor) -> Tensor:
        strength = self._strength_now()
        return self.run(x, strength) if strength else self.layer_forward(x)

    def _strength_now(self) -> float:
        strength = self.state.strength(self.target.part)
        return 0.0 if strength and self.training and self._is_left_out() else strength

    def layer_forward(self, x: Tensor) -> Tensor:
        """What the layer itself makes of ``x``, whether its forward was taken over or not."""
        layer = self.target.layer
        own = self._own_forward[0] if self._own_forward else vars(layer).get("forward")
        return own(x) if own is not None else type(layer).forward(layer, x)

    @property
    def may_replace_weight(self) -> bool:
        """Whether nothing but the layer's weight decides its output, so that another may take its place."""
        return self._own_forward == (None,)

    def run(self, x: Tensor, strength: float) -> Tensor:
        """The changed layer's output, where the layer's forward was taken over."""
        return self.add_to(self.layer_forward(x), x, strength)

    def add_to(self, output: Tensor, x: Tensor, strength: float) -> Tensor:
        """output + strength * delta(x), in the type of ``output``."""
        delta = self.delta(x)
        return output + (delta if strength == 1 else strength * delta).to(output.dtype)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x`` through the layer with another weight [out, in, ...] and no bias."""
        layer = self.target.layer
        if not self.target.is_conv:
            return F.linear(x, weight)
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)

    def base_weight(self) -> Tensor:
        """The layer's own, float32."""
        return self.target.layer.weight.detach().float()

    def _is_left_out(self) -> bool:
        if not self.module_dropout:
            return False
        # One draw for all pictures of a step: left out for some of them, a layer would be computed all the same.
        return torch.rand((), generator=self.generator("module")).item() < self.module_dropout

    def dropout_draw(self, kind: str, shape: Sequence[int]) -> Tensor:
        """Uniform draws from 0 to 1 of ``shape`` [rows, ...] for this adapter's dropout of one kind at this step.

        Each picture has a generator of its own for its rows; a caption of several chunks has as many rows.
        """
        samples = self.state.samples
        if not samples or shape[0] % len(samples):
            samples = tuple(range(shape[0]))
        rows = shape[0] // max(1, len(samples))
        own_shape = (rows, *shape[1:])
        draws = [torch.rand(own_shape, generator=self.generator(kind, sample)) for sample in samples]
        return torch.cat(draws) if draws else torch.empty(tuple(shape))

    def generator(self, *owner: str | int) -> torch.Generator:
        seed = derive_seed(self.state.seed, "dropout", self.state.step, self.key, *owner)
        return torch.Generator("cpu").manual_seed(seed)


def compute_input(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in the adapter's dtype, or as it came where CUDA's autocast chooses one (other autocasts cast back)."""
    return x if x.is_cuda and torch.is_autocast_enabled() else x.to(dtype)


def _without_ones(shape: list[int]) -> list[int]:
    """[r, in, 1, 1] -> [r, in]."""
    return shape[:2] if shape[2:] == [1, 1] else shape


NETWORKS: Registry[type[Adapter]] = Registry("network_type")
