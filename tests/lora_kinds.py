"""A LoRA's tensors for one layer, of every kind that the WebUI can load."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def noise(*shape: int, seed: int, scale: float = 0.1) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 13 * sum(shape)))


def lora(shape: tuple[int, ...], seed: int, rank: int = 3) -> dict[str, Tensor]:
    out, size, *kernel = shape
    ones = [1] * len(kernel)
    return {
        "lora_up.weight": noise(out, rank, *ones, seed=seed),
        "lora_down.weight": noise(rank, size, *kernel, seed=seed + 1),
        "alpha": torch.tensor(2.0),
    }


def tucker(shape: tuple[int, ...], seed: int) -> dict[str, Tensor] | None:
    if shape[2:] != (3, 3):
        return None
    plain = lora((*shape[:2], 1, 1), seed)
    return {**plain, "lora_mid.weight": noise(3, 3, 3, 3, seed=seed + 2, scale=0.5)}


def loha(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    flat = (shape[0], int(np.prod(shape[1:])))
    pairs = {}
    for number in (1, 2):
        pairs[f"hada_w{number}_a"] = noise(flat[0], 2, seed=seed + number, scale=0.3)
        pairs[f"hada_w{number}_b"] = noise(2, flat[1], seed=seed + 5 + number, scale=0.3)
    return {**pairs, "alpha": torch.tensor(1.0)}


def loha_tucker(shape: tuple[int, ...], seed: int) -> dict[str, Tensor] | None:
    if shape[2:] != (3, 3):
        return None
    tensors = {"alpha": torch.tensor(1.0)}
    for number in (1, 2):
        tensors[f"hada_t{number}"] = noise(2, 2, 3, 3, seed=seed + number, scale=0.7)
        tensors[f"hada_w{number}_a"] = noise(2, shape[0], seed=seed + 3 + number, scale=0.7)
        tensors[f"hada_w{number}_b"] = noise(2, shape[1], seed=seed + 6 + number, scale=0.7)
    return tensors


def lokr(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    columns = shape[1] // 2 * int(np.prod(shape[2:]))
    return {
        "lokr_w1": noise(4, 2, seed=seed, scale=0.5),
        "lokr_w2_a": noise(shape[0] // 4, 2, seed=seed + 1, scale=0.3),
        "lokr_w2_b": noise(2, columns, seed=seed + 2, scale=0.3),
        "alpha": torch.tensor(1.0),
    }


def lokr_whole(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    second = noise(shape[0] // 4, shape[1] // 2, *shape[2:], seed=seed + 1, scale=0.3)
    return {"lokr_w1": noise(4, 2, seed=seed, scale=0.3), "lokr_w2": second, "alpha": torch.tensor(5.0)}


def lokr_tucker(shape: tuple[int, ...], seed: int) -> dict[str, Tensor] | None:
    if shape[2:] != (3, 3):
        return None
    return {
        "lokr_w1_a": noise(4, 2, seed=seed),
        "lokr_w1_b": noise(2, 2, seed=seed + 1, scale=1),
        "lokr_t2": noise(2, 2, 3, 3, seed=seed + 2, scale=1),
        "lokr_w2_a": noise(2, shape[0] // 4, seed=seed + 3, scale=1),
        "lokr_w2_b": noise(2, shape[1] // 2, seed=seed + 4, scale=1),
        "alpha": torch.tensor(1.0),
    }


def ia3(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    if len(shape) == 4:  # the WebUI cannot apply convolutions by rows
        return {"weight": noise(1, shape[1], 1, 1, seed=seed), "on_input": torch.tensor(1)}
    return {"weight": noise(shape[seed % 2], seed=seed), "on_input": torch.tensor(seed % 2)}


def full(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    return {"diff": noise(*shape, seed=seed, scale=0.02)}


def old_glora(shape: tuple[int, ...], seed: int) -> dict[str, Tensor] | None:
    if len(shape) == 4:
        return None
    out, size = shape
    sizes = {"a1": (3, size), "a2": (size, 3), "b1": (3, size), "b2": (out, 3)}
    tensors = {f"{name}.weight": noise(*own, seed=seed + number) for number, (name, own) in enumerate(sizes.items())}
    return {**tensors, "alpha": torch.tensor(2.0)}


def oft(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    return {"oft_blocks": noise(shape[0] // 8, 8, 8, seed=seed), "alpha": torch.tensor(2e-3)}


def boft(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    rescale = 1 + noise(shape[0], *[1] * (len(shape) - 1), seed=seed + 1)
    return {"oft_blocks": noise(2, shape[0] // 8, 8, 8, seed=seed), "rescale": rescale}


def old_oft(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    return {"oft_diag": torch.eye(8) + noise(shape[0] // 8, 8, 8, seed=seed)}


def dora(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    magnitude = 1 + noise(1, shape[1], *[1] * (len(shape) - 2), seed=seed + 9).abs()
    return {**lora(shape, seed), "dora_scale": magnitude}


def dora_by_rows(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    magnitude = 1 + noise(shape[0], *[1] * (len(shape) - 1), seed=seed + 9).abs()
    return {**lora(shape, seed), "dora_scale": magnitude}


def with_scale(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    return {**lora(shape, seed), "scale": torch.tensor(0.3)}


def peft(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    plain = lora(shape, seed)
    names = {"lora_B.weight": "lora_up.weight", "lora_A.weight": "lora_down.weight", "alpha": "alpha"}
    return {new: plain[old] for new, old in names.items()}


KINDS: dict[str, Callable[[tuple[int, ...], int], dict[str, Tensor] | None]] = {
    "lora": lora,
    "tucker": tucker,
    "loha": loha,
    "lohatucker": loha_tucker,
    "lokr": lokr,
    "lokrwhole": lokr_whole,
    "lokrtucker": lokr_tucker,
    "ia3": ia3,
    "full": full,
    "oldglora": old_glora,
    "oft": oft,
    "boft": boft,
    "oldoft": old_oft,
    "dora": dora,
    "dorabyrows": dora_by_rows,
    "scale": with_scale,
    "peft": peft,
}
