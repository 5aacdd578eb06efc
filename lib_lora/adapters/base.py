"""What all network types share: the adapter of one frozen layer, and what its network tells it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from lib_lora.base.errors import StudioError
from lib_lora.base.registry import Registry
from lib_lora.base.seeds import derive_seed

UNET = "unet"
TEXT_ENCODER = "text_encoder"


@dataclass(frozen=True)
class NetworkSpec:
    """What kind of network, and on which layers.

    Args:
        rank: of linear layers and 1x1 convolutions.
        alpha: the change is scaled by alpha / rank; 0 means alpha = rank.
        conv_rank: of 3x3 convolutions; None leaves the residual blocks and samplers out altogether.
        conv_alpha: None takes ``alpha``; 0 means the convolution's rank.
        dropout: probability that an activation of the rank is zeroed; None and 0 are off, for these three.
        rank_dropout: probability that one of the ranks is zeroed, per sample.
        module_dropout: probability that an adapter is left out of a step.
        targets: "all", "attention", "cross-attention", "self-attention", or a regular expression to be found in
            the layer's own name (``down_blocks.0.attentions.0...``, ``text_model.encoder.layers.0...``).
        network_type: a name of ``NETWORKS``.
    """

    rank: int
    alpha: float
    conv_rank: int | None = None
    conv_alpha: float | None = None
    dropout: float | None = None
    rank_dropout: float | None = None
    module_dropout: float | None = None
    targets: str = "all"
    train_unet: bool = True
    train_text_encoder: bool = True
    network_type: str = "LoRA"

    def __post_init__(self) -> None:
        for name, rank in (("network_dim", self.rank), ("conv_dim", self.conv_rank)):
            if rank is not None and rank < 1:
                raise StudioError("not allowed", field=name, came=rank, allowed="a whole number, at least 1")
        for name, alpha in (("network_alpha", self.alpha), ("conv_alpha", self.conv_alpha)):
            if alpha is not None and alpha < 0:
                raise StudioError("not allowed", field=name, came=alpha, allowed="a number, at least 0")
        for name in ("dropout", "rank_dropout", "module_dropout"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                name = "network_dropout" if name == "dropout" else name
                raise StudioError("not allowed", field=name, came=share, allowed="a number from 0 to below 1")


@dataclass
class NetworkState:
    """What changes while a network is used; its adapters look here at every forward.

    ``step`` and ``samples``, the pictures of the batch, own the dropout draws: a forward that is repeated under the
    same numbers, as gradient checkpointing does, draws the same, and so does a picture in another batch. Without
    ``samples`` the batch's rows count as pictures.
    """

    seed: int = 0
    step: int = 0
    samples: tuple[int, ...] = ()
    multiplier: float = 1.0
    strengths: dict[str, float] = field(default_factory=lambda: {UNET: 1.0, TEXT_ENCODER: 1.0})

    def strength(self, part: str) -> float:
        return self.multiplier * self.strengths[part]

    def repeat(self) -> AbstractContextManager[None]:
        """A context in which this state is once more what it is now, for a forward that is repeated later."""
        return self._as(replace(self, strengths=dict(self.strengths)))

    @contextmanager
    def _as(self, past: NetworkState) -> Iterator[None]:
        now = dict(vars(self))
        vars(self).update(vars(past))
        try:
            yield
        finally:
            vars(self).update(now)


@dataclass(frozen=True)
class Target:
    """A frozen layer to adapt: its names in files and in the model, its part ("unet" or "text_encoder")."""

    key: str
    module_name: str
    part: str
    layer: nn.Linear | nn.Conv2d

    @property
    def is_conv(self) -> bool:
        return isinstance(self.layer, nn.Conv2d)

    @property
    def kernel(self) -> tuple[int, ...]:
        """(kh, kw) of a convolution, () of a linear layer."""
        return tuple(self.layer.kernel_size) if self.is_conv else ()

    @property
    def is_spatial(self) -> bool:
        """A convolution that looks at neighbours, 3x3 in Stable Diffusion."""
        return self.kernel not in ((), (1, 1))

    @property
    def in_size(self) -> int:
        return self.layer.in_channels if self.is_conv else self.layer.in_features

    @property
    def out_size(self) -> int:
        return self.layer.out_channels if self.is_conv else self.layer.out_features


class Adapter(nn.Module, ABC):
    """A trainable change of one frozen layer: y = layer(x) + strength * delta(x).

    It hangs on the layer by a forward hook and leaves weights, flags and methods of the layer as they are. Its
    parameters are float32 whatever the layer's dtype is; it computes in float32, or in autocast's dtype.
    """

    # Suffixes of the type's keys in files: those it cannot do without, and those that may be missing.
    needs: ClassVar[frozenset[str]]
    may_have: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, target: Target, state: NetworkState, module_dropout: float | None = None) -> None:
        super().__init__()
        if target.is_conv and (target.layer.groups != 1 or target.layer.padding_mode != "zeros"):
            raise ValueError(f"{target.module_name}: grouped and circular convolutions have no adapter")
        # In a tuple, lest the frozen layer becomes a part of this module and its weights are trained and saved.
        self._target = (target,)
        self._handle: torch.utils.hooks.RemovableHandle | None = None
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

    @abstractmethod
    def low_rank(self) -> tuple[Tensor, Tensor, float]:
        """(up [out, r], down [r, in * kh * kw], scale): the change is scale * up @ down, reshaped.

        Raises:
            NotImplementedError: this type's change has no low rank.
        """

    @abstractmethod
    def state_tensors(self) -> dict[str, Tensor]:
        """What a file keeps, by suffix, float32."""

    @abstractmethod
    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Look whether a file's tensors, by suffix, could be loaded.

        Raises:
            StudioError: they have other shapes than this adapter.
        """

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a file's tensors, by suffix; raises as ``check`` does, and then nothing was changed."""

    def note(self) -> str | None:
        """Something odd about this adapter that a person may want to know."""
        return None

    def attach(self) -> None:
        """Change the layer's output from now on; twice is once."""
        if self._handle is None:
            self._handle = self.target.layer.register_forward_hook(self._hook)

    def detach_from_layer(self) -> None:
        """Leave the layer as it was found."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @property
    def attached(self) -> bool:
        return self._handle is not None

    def _hook(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        strength = self.state.strength(self.target.part)
        if strength == 0 or (self.training and self._is_left_out()):
            return None
        return self.add_to(output, args[0], strength)

    def add_to(self, output: Tensor, x: Tensor, strength: float) -> Tensor:
        """output + strength * delta(x), in the type of ``output``."""
        delta = self.delta(x)
        return output + (delta if strength == 1 else strength * delta).to(output.dtype)

    def _is_left_out(self) -> bool:
        if not self.module_dropout:
            return False
        # One draw for all pictures of a step: left out for some of them, a layer would be computed all the same.
        return torch.rand((), generator=self._generator("module")).item() < self.module_dropout

    def dropout_draw(self, kind: str, shape: Sequence[int]) -> Tensor:
        """Uniform draws from 0 to 1 of ``shape`` [rows, ...] for this adapter's dropout of one kind at this step.

        Each picture has a generator of its own for its rows; a caption of several chunks has as many rows.
        """
        samples = self.state.samples
        if not samples or shape[0] % len(samples):
            samples = tuple(range(shape[0]))
        rows = shape[0] // max(1, len(samples))
        own_shape = (rows, *shape[1:])
        draws = [torch.rand(own_shape, generator=self._generator(kind, sample)) for sample in samples]
        return torch.cat(draws) if draws else torch.empty(tuple(shape))

    def _generator(self, *owner: str | int) -> torch.Generator:
        seed = derive_seed(self.state.seed, "dropout", self.state.step, self.key, *owner)
        return torch.Generator("cpu").manual_seed(seed)


def compute_input(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in the adapter's dtype, or as it came where CUDA's autocast chooses one (other autocasts cast back)."""
    return x if x.is_cuda and torch.is_autocast_enabled() else x.to(dtype)


NETWORKS: Registry[type[Adapter]] = Registry("network_type")
