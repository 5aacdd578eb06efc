"""The noise that pictures start from: the same for the same seed as in the WebUI."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lib_lora.base.errors import StudioError

SOURCES = ("CPU", "GPU", "NV")


class ImageNoise:
    """Standard normal noise with a generator of its own for each picture of a batch.

    A picture's noise depends on its seed alone, not on its batch, and each further draw continues the same
    sequence: A1111 v1.10.1, ``rng.ImageRNG``. The global generators are left alone.

    Args:
        shape: of one picture's latents, [C, h, w].
        seeds: one per picture.
        source: the WebUI's setting "Random number generator source": "CPU" draws on the CPU, "GPU" on ``device``,
            "NV" computes what an NVIDIA card would draw.
        device: where the noise is wanted.
    """

    def __init__(
        self, shape: Sequence[int], seeds: Sequence[int], source: str = "CPU", device: torch.device | str = "cpu"
    ) -> None:
        if source not in SOURCES:
            raise StudioError("unknown name", field="randn_source", came=source, allowed=SOURCES)
        self.shape, self.device = tuple(shape), torch.device(device)
        self._source_device = self.device if source == "GPU" else torch.device("cpu")
        if source == "NV":
            self._generators: list = [Philox(seed) for seed in seeds]
        else:
            self._generators = [torch.Generator(self._source_device).manual_seed(seed) for seed in seeds]

    def next(self) -> torch.Tensor:
        """float32 [B, C, h, w]."""
        return torch.stack([self._draw(generator) for generator in self._generators]).to(self.device)

    def _draw(self, generator: torch.Generator | Philox) -> torch.Tensor:
        if isinstance(generator, Philox):
            return torch.from_numpy(generator.randn(self.shape))
        return torch.randn(self.shape, generator=generator, device=self._source_device)


class Philox:
    """``torch.randn`` of CUDA on the CPU: Philox 4x32 with 10 rounds and Box-Muller.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", with cuRAND's counters: the i-th number of
    the n-th draw has the counter (n, 0, i, 0) and the seed for its key.
    """

    _MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
    _KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
    _SCALE = np.float32(2.0**-32)
    _SCALE_TO_ANGLE = np.float32(2.3283064e-10 * 6.2831855)  # 2 pi 2^-32, rounded as cuRAND rounds it

    def __init__(self, seed: int) -> None:
        self._key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
        self._draws = 0

    def randn(self, shape: Sequence[int]) -> np.ndarray:
        """float32 of ``shape``."""
        x, y = self._uniform_bits(int(np.prod(shape)))
        # In float64 from float32 constants, as the WebUI's rng_philox computes it.
        u = x.astype(np.float64) * self._SCALE + self._SCALE / np.float32(2)
        angle = y.astype(np.float64) * self._SCALE_TO_ANGLE + self._SCALE_TO_ANGLE / np.float32(2)
        self._draws += 1
        return (np.sqrt(-2.0 * np.log(u)) * np.sin(angle)).astype(np.float32).reshape(tuple(shape))

    def _uniform_bits(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first two of the four words of each counter, as uint64 [count] below 2^32."""
        low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
        zeros = np.zeros(count, dtype=np.uint64)
        c0, c1, c2, c3 = zeros + np.uint64(self._draws), zeros, np.arange(count, dtype=np.uint64), zeros
        key0, key1 = self._key
        for _ in range(10):
            product0, product1 = c0 * self._MULTIPLIERS[0], c2 * self._MULTIPLIERS[1]
            c0, c1, c2, c3 = (
                (product1 >> half) ^ c1 ^ np.uint64(key0),
                product1 & low,
                (product0 >> half) ^ c3 ^ np.uint64(key1),
                product0 & low,
            )
            key0, key1 = (key0 + self._KEY_STEPS[0]) & 0xFFFFFFFF, (key1 + self._KEY_STEPS[1]) & 0xFFFFFFFF
        return c0, c1
