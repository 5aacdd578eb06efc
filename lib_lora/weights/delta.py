"""One algebra for every network type: what each layer of a LoRA file adds to the layer's weight and bias.

Suffixes and the order in which types are told apart are A1111 v1.10.1's (extensions-builtin/Lora/network_*.py), the
formulas LyCORIS' (KohakuBlueleaf/LyCORIS, docs/Algo-Details.md and lycoris/modules). W is the layer's weight, s the
scale alpha / rank, . an elementwise product:

    LoRA   s U D, with ``lora_mid`` s U (M x D)      Full   diff, bias diff_b
    LoHa   s (w1a w1b) . (w2a w2b)                   Norm   w_norm, bias b_norm
    LoKr   s kron(w1, w2)                            GLoRA  s (b1 b2 + W a1 a2), older files b2 b1 + W a2 a1
    IA3    W . w, by rows or by columns              OFT    rescale . (R W) - W, R a block diagonal or a butterfly
    DoRA   m . (W + dW) / |W + dW| - W, on top of LoRA, LoHa or LoKr

In three places the WebUI computes something else than the trainer did (``READINGS``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from lib_lora.arch.family import Family
from lib_lora.arch.keys import split_key
from lib_lora.base.errors import StudioError
from lib_lora.models.checkpoint_file import open_checkpoint
from lib_lora.weights.names import from_diffusers, is_diffusers

# How a file is understood. "webui": as WebUI 1.10.1 applies it. "trained": as its trainer meant it, which differs for
# DoRA normed by output rows (the WebUI always norms by input columns), for older GLoRA files and for ``lora_A`` and
# ``lora_B`` (the WebUI leaves out their alpha, and DoRA of the latter).
READINGS = ("webui", "trained")
INPAINTING_CHANNELS, LATENT_CHANNELS = 9, 4

Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class ModuleDelta(ABC):
    """What one module of a file does to its layer, at strength 1. Every strength multiplies this delta.

    Attributes:
        key: the module's name in the file, such as ``lora_unet_mid_block_attentions_0_proj_in``.
        tensors: by suffix, views of the file.
        reading: one of ``READINGS``.
        ignored: suffixes of the file that this reading leaves out.
    """

    key: str
    tensors: Mapping[str, Tensor]
    reading: str = "webui"
    ignored: tuple[str, ...] = ()

    kind: ClassVar[str]
    needs: ClassVar[tuple[frozenset[str], ...]]  # one of these sets
    may_have: ClassVar[frozenset[str]] = frozenset()

    @property
    def needs_base(self) -> bool:
        """Whether the delta depends on the layer's own weight."""
        return self.is_dora

    @property
    def is_dora(self) -> bool:
        return "dora_scale" in self.tensors

    @property
    def is_normed_by_rows(self) -> bool:
        """Whether its DoRA's magnitudes are those of output rows, [out, 1, ...], and not of input columns."""
        return self.is_dora and _is_by_rows(self.tensors["dora_scale"])

    @property
    def name(self) -> str:
        """The kind in words: "LoRA", "LoHa with DoRA"."""
        return f"{self.kind} with DoRA" if self.is_dora else self.kind

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """The file's own rank, or None where the type has none."""

    @property
    def scale(self) -> float:
        """``scale`` where a file has it, else alpha / rank, else 1."""
        if "scale" in self.tensors:
            return float(self.tensors["scale"])
        if "alpha" in self.tensors and self.rank:
            return float(self.tensors["alpha"]) / self.rank
        return 1.0

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The weight's shape as far as the file tells it, None where only the layer knows.

        A convolution may look like a linear layer here: (out, in) for 1x1, and (out, in * kh * kw) for LoKr.
        """
        return None

    def dense(
        self,
        base: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        *,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """The delta in the shape of ``base``, of ``shape``, or of what the file tells, in this order.

        A first convolution [out, 9, kh, kw] of an inpainting model takes a delta of 4 channels; the rest are zero.

        Raises:
            StudioError: ``needs_base`` and there is none, or the delta does not fit the layer.
        """
        weight = self._base(base, dtype)
        change = self._change(weight, dtype)
        if "bias" in self.tensors:
            change = change + self._get("bias", dtype).reshape(change.shape)
        change = change * self.scale
        change = self._fitted(change, shape if weight is None else tuple(weight.shape))
        return _decomposed(change, weight, self._get("dora_scale", dtype), self.reading) if self.is_dora else change

    def low_rank(self, base: Tensor | None = None, dtype: torch.dtype = torch.float64) -> Factors | None:
        """(up [out, r], down [r, in * kh * kw]) with up @ down the delta, exactly; None where there are none, or where
        r would reach the matrix's own size. r may be larger than ``rank``: LoHa's is its square."""
        if self.is_dora or "bias" in self.tensors:
            return None
        factors = self._factors(self._base(base, dtype), dtype)
        if factors is None or factors[0].shape[1] >= min(factors[0].shape[0], factors[1].shape[1]) > 1:
            return None
        return factors[0] * self.scale, factors[1]

    def bias(self, dtype: torch.dtype = torch.float64) -> Tensor | None:
        """What is added to the layer's bias, or None."""
        return None

    def cut(self, rank: int | None) -> ModuleDelta:
        """As the WebUI's ``dyn=``: the first ranks of a LoRA at an unchanged scale, any other type as it is."""
        return self

    @abstractmethod
    def _change(self, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The delta before the scale, as a matrix [out, in * kh * kw] or in the weight's shape."""

    def _factors(self, weight: Tensor | None, dtype: torch.dtype) -> Factors | None:
        """Factors of ``_change``."""
        return None

    def _get(self, suffix: str, dtype: torch.dtype) -> Tensor:
        return self.tensors[suffix].to(dtype)

    def _flat(self, suffix: str, dtype: torch.dtype) -> Tensor:
        """[rows, everything else]."""
        return self._get(suffix, dtype).flatten(1)

    def _base(self, base: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        if base is None and self.needs_base:
            raise StudioError(
                f"{self.key} is a {self.name}: what it changes depends on the weights of the checkpoint",
                field="base",
                allowed="the checkpoint that it is meant for",
            )
        return None if base is None else base.to(dtype)

    def _fitted(self, change: Tensor, shape: tuple[int, ...] | None) -> Tensor:
        shape = shape or self.shape or tuple(change.shape)
        if change.numel() == prod(shape) and (change.dim() < 2 or change.shape[0] == shape[0]):
            return change.reshape(shape)
        if len(shape) == 4 and shape[1] == INPAINTING_CHANNELS:
            own = (shape[0], LATENT_CHANNELS, *shape[2:])
            if change.numel() == prod(own):
                return torch.nn.functional.pad(change.reshape(own), (0, 0, 0, 0, 0, shape[1] - own[1]))
        raise StudioError(
            "does not fit the layer: the LoRA is for another model family",
            field=self.key,
            came=list(self.shape or change.shape),
            allowed=f"shape {list(shape)}",
        )


def _decomposed(change: Tensor, weight: Tensor, magnitude: Tensor, reading: str) -> Tensor:
    """DoRA (Liu et al., arXiv 2402.09353): m . V / |V| - W, V = W + dW.

    The norm is by input columns, magnitude [1, in, ...]; trained by LyCORIS also by output rows, magnitude [out, 1,
    ...] (LyCORIS #216, #246), which the WebUI does not know.
    """
    whole = weight + change
    by_rows = reading == "trained" and _is_by_rows(magnitude)
    axes = [axis for axis in range(whole.dim()) if axis != (0 if by_rows else 1)]
    norm = torch.linalg.vector_norm(whole, dim=axes, keepdim=True)
    return whole * (magnitude.reshape(*magnitude.shape, *[1] * (whole.dim() - magnitude.dim())) / norm) - weight


def _is_by_rows(magnitude: Tensor) -> bool:
    return magnitude.dim() > 1 and magnitude.shape[0] == magnitude.numel() > 1


def _sets(*sets: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names.split()) for names in sets)


_SCALES = frozenset(("alpha", "scale", "bias", "dora_scale"))


class Lora(ModuleDelta):
    """LoRA, LoCon, and with ``lora_mid`` its Tucker form; DyLoRA's files are no different."""

    kind = "LoRA"
    needs = _sets("lora_up.weight lora_down.weight")
    may_have = _SCALES | {"lora_mid.weight"}

    @property
    def rank(self) -> int:
        return self.tensors["lora_down.weight"].shape[0]

    @property
    def is_tucker(self) -> bool:
        return "lora_mid.weight" in self.tensors

    @property
    def shape(self) -> tuple[int, ...]:
        down = self.tensors["lora_down.weight"]
        kernel = self.tensors["lora_mid.weight"].shape[2:] if self.is_tucker else down.shape[2:]
        return (self.tensors["lora_up.weight"].shape[0], down.shape[1], *kernel)

    def cut(self, rank: int | None) -> ModuleDelta:
        # The WebUI's rebuild of the Tucker form does not look at ``dyn``.
        if rank is None or rank >= self.rank or self.is_tucker:
            return self
        up, down = self.tensors["lora_up.weight"][:, :rank], self.tensors["lora_down.weight"][:rank]
        scale = torch.tensor(self.scale, dtype=torch.float64)
        return replace(self, tensors={**self.tensors, "lora_up.weight": up, "lora_down.weight": down, "scale": scale})

    def _change(self, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
        up, down = self._factors(weight, dtype)
        return up @ down

    def _factors(self, weight: Tensor | None, dtype: torch.dtype) -> Factors:
        up, down = self._flat("lora_up.weight", dtype), self._flat("lora_down.weight", dtype)
        if self.is_tucker:
            down = torch.einsum("nmkl,mj->njkl", self._get("lora_mid.weight", dtype), down).flatten(1)
        return up, down


class LoHa(ModuleDelta):
    """The elementwise product of two low-rank matrices (FedPara, arXiv 2108.06098)."""

    kind = "LoHa"
    needs = _sets("hada_w1_a hada_w1_b hada_w2_a hada_w2_b")
    may_have = _SCALES | {"hada_t1", "hada_t2"}

    @property
    def rank(self) -> int:
        return self.tensors["hada_w1_b"].shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        first, second = self.tensors["hada_w1_a"], self.tensors["hada_w1_b"]
        if "hada_t1" in self.tensors:
            return (first.shape[1], second.shape[1], *self.tensors["hada_t1"].shape[2:])
        return (first.shape[0], *second.shape[1:])

    def _change(self, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
        first, second = (up @ down for up, down in self._pairs(dtype))
        return first * second

    def _factors(self, weight: Tensor | None, dtype: torch.dtype) -> Factors | None:
        """(A B) . (C D) is the sum over all pairs p, q of (A_p . C_q) (B_p . D_q): rank r * r at most."""
        if self.rank**2 >= min(prod(self.shape[1:]), self.shape[0]):
            return None
        (a, b), (c, d) = self._pairs(dtype)
        return (a[:, :, None] * c[:, None, :]).flatten(1), (b[:, None, :] * d[None, :, :]).flatten(0, 1)

    def _pairs(self, dtype: torch.dtype) -> list[Factors]:
        pairs = []
        for number in "12":
            a, b = self._get(f"hada_w{number}_a", dtype), self._flat(f"hada_w{number}_b", dtype)
            if f"hada_t{number}" in self.tensors:
                a, b = a.t(), torch.einsum("ijkl,jr->irkl", self._get(f"hada_t{number}", dtype), b).flatten(1)
            pairs.append((a.flatten(1), b))
        return pairs


class IA3(ModuleDelta):
    """(IA)^3 (arXiv 2205.05638): each row of W, or each column where ``on_input``, grows by its own share."""

    kind = "IA3"
    needs = _sets("weight on_input")
    may_have = frozenset(("scale", "bias", "dora_scale"))

    @property
    def needs_base(self) -> bool:
        return True

    @property
    def rank(self) -> None:
        return None

    def _change(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        share = self._get("weight", dtype).flatten()
        rest = weight.dim() - 2
        shape = (1, -1) if bool(self.tensors["on_input"]) else (-1, 1)
        return weight * share.reshape(*shape, *[1] * rest)


class LoKr(ModuleDelta):
    """A Kronecker product of a small and a larger matrix, each of which may be given by two factors."""

    kind = "LoKr"
    needs = _sets(
        "lokr_w1 lokr_w2",
        "lokr_w1 lokr_w2_a lokr_w2_b",
        "lokr_w1_a lokr_w1_b lokr_w2",
        "lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b",
    )
    may_have = _SCALES | {"lokr_t2"}

    @property
    def rank(self) -> int | None:
        """Rows of ``w2_b``, else of ``w1_b``; with both matrices full there is none, and the scale is 1."""
        factor = self.tensors.get("lokr_w2_b", self.tensors.get("lokr_w1_b"))
        return None if factor is None else factor.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        first, second = self._size("lokr_w1"), self._size("lokr_w2")
        return (first[0] * second[0], first[1] * second[1], *second[2:])

    def _size(self, name: str) -> tuple[int, ...]:
        if name in self.tensors:
            return tuple(self.tensors[name].shape)
        a, b = self.tensors[f"{name}_a"], self.tensors[f"{name}_b"]
        if self._is_tucker(name):
            return (a.shape[1], b.shape[1], *self.tensors["lokr_t2"].shape[2:])
        return (a.shape[0], *b.shape[1:])

    def _is_tucker(self, name: str) -> bool:
        return name == "lokr_w2" and "lokr_t2" in self.tensors

    def _change(self, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
        return _kron(*self.matrices(dtype))

    @property
    def is_product(self) -> bool:
        """Whether the delta is the product and nothing else."""
        return not self.is_dora and "bias" not in self.tensors

    def matrices(self, dtype: torch.dtype) -> Factors:
        """The two whose product it is, before the scale."""
        return self._matrix("lokr_w1", dtype), self._matrix("lokr_w2", dtype)

    def _matrix(self, name: str, dtype: torch.dtype) -> Tensor:
        pair = self._pair(name, dtype)
        return self._flat(name, dtype) if pair is None else pair[0] @ pair[1]

    def _pair(self, name: str, dtype: torch.dtype) -> Factors | None:
        """The two factors [rows, r] and [r, columns] of w1 or w2, None where it is given whole."""
        if name in self.tensors:
            return None
        a, b = self._get(f"{name}_a", dtype), self._flat(f"{name}_b", dtype)
        if self._is_tucker(name):
            a, b = a.t(), torch.einsum("ijkl,jr->irkl", self._get("lokr_t2", dtype), b).flatten(1)
        return a.flatten(1), b

    def _factors(self, weight: Tensor | None, dtype: torch.dtype) -> Factors | None:
        """kron(A B, C D) = kron(A, C) kron(B, D); a whole matrix is its own factor beside an identity."""
        if "lokr_w1" in self.tensors and "lokr_w2" in self.tensors:
            return None
        (a, b), (c, d) = (self._pair(name, dtype) or self._whole_pair(name, dtype) for name in ("lokr_w1", "lokr_w2"))
        if a.shape[1] * c.shape[1] >= min(a.shape[0] * c.shape[0], b.shape[1] * d.shape[1]):
            return None
        return _kron(a, c), _kron(b, d)

    def _whole_pair(self, name: str, dtype: torch.dtype) -> Factors:
        matrix = self._flat(name, dtype)
        rows, columns = matrix.shape
        if rows <= columns:
            return torch.eye(rows, dtype=dtype, device=matrix.device), matrix
        return matrix, torch.eye(columns, dtype=dtype, device=matrix.device)


def _kron(first: Tensor, second: Tensor) -> Tensor:
    """The Kronecker product of two matrices (torch.kron of version 2.1 takes no transposed ones)."""
    return (first[:, None, :, None] * second[None, :, None, :]).flatten(2).flatten(0, 1)


class Full(ModuleDelta):
    """The difference itself, of the weight and perhaps of the bias."""

    kind = "Full"
    needs = _sets("diff")
    may_have = frozenset(("diff_b", "scale", "bias", "dora_scale"))
    _weight, _bias = "diff", "diff_b"

    @property
    def rank(self) -> None:
        return None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensors[self._weight].shape)

    def bias(self, dtype: torch.dtype = torch.float64) -> Tensor | None:
        return self._get(self._bias, dtype) if self._bias in self.tensors else None

    def _change(self, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
        return self._get(self._weight, dtype)


class Norm(Full):
    """The differences of a LayerNorm's or GroupNorm's weight and bias."""

    kind = "Norm"
    needs = _sets("w_norm")
    may_have = frozenset(("b_norm", "scale", "bias"))
    _weight, _bias = "w_norm", "b_norm"


class GLoRA(ModuleDelta):
    """GLoRA (arXiv 2306.07967) as LyCORIS has it. Files before its version 3 hold each pair the other way round."""

    kind = "GLoRA"
    needs = _sets("a1.weight a2.weight b1.weight b2.weight")
    may_have = frozenset(("alpha", "scale", "bias", "dora_scale"))

    @property
    def needs_base(self) -> bool:
        return True

    @property
    def is_old(self) -> bool:
        """New files' ``a1`` is [in, r], old files' [r, in]."""
        rows, columns = self.tensors["a1.weight"].shape[:2]
        return rows < columns

    @property
    def rank(self) -> int:
        return self.tensors["a1.weight"].shape[0 if self.is_old else 1]

    @property
    def scale(self) -> float:
        """The WebUI leaves alpha out; of new files, which it cannot apply at all, only the trainer's is left."""
        if self.is_old and self.reading == "webui" and "scale" not in self.tensors:
            return 1.0
        return super().scale

    @property
    def shape(self) -> tuple[int, ...]:
        out, rest = ("b2.weight", "b1.weight") if self.is_old else ("b1.weight", "b2.weight")
        return (self.tensors[out].shape[0], *self.tensors[rest].shape[1:])

    def _pairs(self, dtype: torch.dtype) -> list[Factors]:
        """(B's, A's) factors, each [rows, r] and [r, columns]."""
        order = ("2", "1") if self.is_old else ("1", "2")
        return [
            (self._flat(f"{letter}{order[0]}.weight", dtype), self._flat(f"{letter}{order[1]}.weight", dtype))
            for letter in "ba"
        ]

    def _change(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        (b_up, b_down), (a_up, a_down) = self._pairs(dtype)
        through = torch.einsum("oi...,ir,rj->oj...", weight, a_up, a_down)
        return (b_up @ b_down).reshape(weight.shape) + through

    def _factors(self, weight: Tensor, dtype: torch.dtype) -> Factors | None:
        """B + W A, side by side: rank 2 r; none for convolutions that look at neighbours."""
        if prod(weight.shape[2:]) != 1:
            return None
        (b_up, b_down), (a_up, a_down) = self._pairs(dtype)
        return torch.cat((b_up, weight.flatten(1) @ a_up), 1), torch.cat((b_down, a_down))


class OFT(ModuleDelta):
    """Orthogonal finetuning: W' = R W, R = (I + Q)(I - Q)^-1 with Q = B - B^T (Qiu et al., arXiv 2306.07280).

    ``oft_blocks`` [n, b, b] are the blocks of a diagonal, [m, n, b, b] the m stages of a butterfly (BOFT, arXiv
    2311.06243); ``oft_diag`` [n, b, b] holds R itself. alpha limits the norm of Q to alpha * out, 0 does not.
    """

    kind = "OFT"
    needs = _sets("oft_blocks", "oft_diag")
    may_have = frozenset(("rescale", "alpha", "bias", "dora_scale"))

    @property
    def needs_base(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return "BOFT" if self._blocks.dim() == 4 else "OFT"

    @property
    def _blocks(self) -> Tensor:
        return self.tensors["oft_blocks"] if "oft_blocks" in self.tensors else self.tensors["oft_diag"]

    @property
    def rank(self) -> None:
        return None

    @property
    def scale(self) -> float:
        return 1.0

    def _change(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        turns = self.turns(dtype, weight.shape[0])
        rows = weight.flatten(1)
        turned = _butterfly(turns, rows) if turns.dim() == 4 else _block_diagonal(turns, rows)
        if "rescale" in self.tensors:
            turned = self._get("rescale", dtype).reshape(-1, 1) * turned
        return turned - rows

    def turns(self, dtype: torch.dtype, out_size: int | None = None) -> Tensor:
        """R's blocks.

        Args:
            out_size: rows of the layer; None for as many as the blocks make.
        """
        blocks = self._blocks.to(dtype)
        out_size = prod(blocks.shape[-3:-1]) if out_size is None else out_size
        if prod(blocks.shape[-3:-1]) != out_size:
            raise StudioError(
                "does not fit the layer: the LoRA is for another model family",
                field=self.key,
                came=list(blocks.shape),
                allowed=f"blocks that make {out_size} rows",
            )
        if "oft_blocks" not in self.tensors:
            return blocks
        q = blocks - blocks.transpose(-1, -2)
        limit = float(self.tensors["alpha"]) * out_size if "alpha" in self.tensors else 0.0
        if limit != 0:
            norm = torch.linalg.vector_norm(q)
            q = q * ((norm.clamp(max=limit) + 1e-8) / (norm + 1e-8))
        one = torch.eye(q.shape[-1], dtype=dtype)
        return torch.linalg.solve(one - q, one + q)  # the two commute


def _block_diagonal(turns: Tensor, rows: Tensor) -> Tensor:
    """R^T W block by block: trainers turn outputs, y R. turns [n, b, b], rows [n * b, columns]."""
    return torch.einsum("knm,knc->kmc", turns, rows.unflatten(0, turns.shape[:2])).flatten(0, 1)


def _butterfly(turns: Tensor, rows: Tensor) -> Tensor:
    """m stages [m, n, b, b]; stage i mixes rows that stand 2^i * b / 2 apart."""
    block = turns.shape[-1]
    for stage, turn in enumerate(turns):
        apart = 2**stage * block // 2
        mixed = rows.unflatten(0, (-1, 2, apart)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, block))
        mixed = torch.einsum("bij,bjc->bic", turn, mixed).flatten(0, 1)
        rows = mixed.unflatten(0, (-1, apart, 2)).transpose(1, 2).flatten(0, 2)
    return rows


# In the order of asking.
KINDS: tuple[type[ModuleDelta], ...] = (Lora, LoHa, IA3, LoKr, Full, Norm, GLoRA, OFT)
BUNDLE = "bundle_emb"  # textual inversions that a LoRA file carries along


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA file, mapped into memory: nothing of its tensors was read yet.

    Attributes:
        modules: by the module's name in the file.
        unread: suffixes by module, where they make no type that is known.
        embeddings: the tensors of textual inversions that the file carries along, by whole key.
        renamed: whether the file has diffusers' names, none of which the WebUI finds.
    """

    path: Path | None
    modules: Mapping[str, ModuleDelta]
    metadata: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)
    renamed: bool = False

    @property
    def name(self) -> str:
        return "LoRA" if self.path is None else self.path.stem

    @property
    def family(self) -> Family | None:
        """The family that it was made for, None where neither shapes, names nor metadata tell."""
        return lora_family(self.modules, self.metadata)


def read_lora(path: Path | str, reading: str = "webui") -> LoraWeights:
    """A LoRA file of any format that the WebUI reads, .safetensors or PyTorch's, and in any of ``names.NAMES``; the
    modules have kohya's or LDM's.

    Raises:
        StudioError: no such file, or something else than a file of tensors. Unknown modules are no error here.
    """
    file = open_checkpoint(path)
    if not is_diffusers(file.tensors):
        return lora_from_tensors(file.tensors, file.metadata, Path(path), reading)
    tensors = from_diffusers(file.tensors, file.metadata)
    return replace(lora_from_tensors(tensors, file.metadata, Path(path), reading), renamed=True)


def lora_from_tensors(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    path: Path | None = None,
    reading: str = "webui",
) -> LoraWeights:
    """A LoRA from tensors by whole keys, ``lora_unet_x_y.lora_up.weight``."""
    if reading not in READINGS:
        raise StudioError("not allowed", field="reading", came=reading, allowed=READINGS)
    by_module: dict[str, dict[str, Tensor]] = defaultdict(dict)
    embeddings = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{BUNDLE}.")}
    for key in tensors.keys() - embeddings.keys():
        module, suffix = split_key(key)
        by_module[module][suffix] = tensors[key]
    modules: dict[str, ModuleDelta] = {}
    unread: dict[str, tuple[str, ...]] = {}
    for module in sorted(by_module):
        own = by_module[module]
        delta = module_delta(module, own, reading)
        if delta is None:
            unread[module] = tuple(sorted(own))
        else:
            modules[module] = delta
    return LoraWeights(path, modules, dict(metadata or {}), unread, embeddings)


def module_delta(key: str, tensors: Mapping[str, Tensor], reading: str = "webui") -> ModuleDelta | None:
    """The delta that a module's tensors by suffix describe, None for suffixes that no type has."""
    named = _from_peft(tensors, reading)
    for kind in KINDS:
        for names in kind.needs:
            if names <= named.keys():
                known = names | kind.may_have
                own = {suffix: tensor for suffix, tensor in named.items() if suffix in known}
                left_out = {suffix for suffix in tensors if _PEFT.get(suffix, suffix) not in own}
                return kind(key, own, reading, tuple(sorted(left_out)))
    return None


# The WebUI leaves out whatever else such a module has.
_PEFT = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}


def _from_peft(tensors: Mapping[str, Tensor], reading: str) -> Mapping[str, Tensor]:
    """The tensors under kohya's names, where they have PEFT's."""
    if not _PEFT.keys() <= tensors.keys() or "lora_up.weight" in tensors:
        return tensors
    kept = tensors if reading == "trained" else _PEFT
    return {_PEFT.get(suffix, suffix): tensors[suffix] for suffix in kept}


_CONTEXT_WIDTHS = {768: Family.SD1, 1024: Family.SD2, 2048: Family.SDXL}
_VERSIONS = {Family.SDXL: ("sdxl", "-xl-"), Family.SD2: ("sd_v2", "-v2"), Family.SD1: ("sd_v1", "-v1")}


def lora_family(modules: Mapping[str, ModuleDelta], metadata: Mapping[str, str]) -> Family | None:
    """By the widths of cross attention, then by names that SDXL alone has, then by sd-scripts' or modelspec's words."""
    widths = (_width(delta) for key, delta in modules.items() if key.endswith(("attn2_to_k", "attn2_to_v")))
    known = next((width for width in widths if width in _CONTEXT_WIDTHS), None)
    if known is not None:
        return _CONTEXT_WIDTHS[known]
    if _names_of_sdxl(modules):
        return Family.SDXL
    version = f"{metadata.get('ss_base_model_version', '')} {metadata.get('modelspec.architecture', '')}".lower()
    for family, words in _VERSIONS.items():
        if any(word in version for word in words):
            return family
    return Family.SD2 if metadata.get("ss_v2") == "True" else None


def _width(delta: ModuleDelta) -> int | None:
    return delta.shape[1] if delta.shape and len(delta.shape) > 1 else None


def _names_of_sdxl(keys: Iterable[str]) -> bool:
    return any(key.startswith(("lora_te1_", "lora_te2_")) or "transformer_blocks_9_" in key for key in keys)
