"""Low-rank approximation of a layer's change, from its factors or from the whole matrix.

The best approximation W_r of rank r keeps the r largest singular values S (Eckart and Young 1936); its error
||W - W_r||_F is the root of the sum of the squares of the others.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lib_lora.base.errors import StudioError

RULES = ("fixed", "sv_ratio", "sv_cumulative", "sv_fro", "threshold", "ratio", "quantile")

# What the sum of all singular values is needed for: without the smallest ones there is no such sum.
_NEED_ALL = frozenset({"sv_cumulative", "quantile"})
_RANGES = {
    "sv_ratio": ("a number, at least 1", lambda value: value >= 1),
    "threshold": ("a number, at least 0", lambda value: value >= 0),
}
_SHARE = ("a number from 0 to 1", lambda value: 0 <= value <= 1)


@dataclass(frozen=True)
class RankRule:
    """How many singular values S_1 >= S_2 >= ... are kept. The first three are sd-scripts' (48d368f,
    networks/resize_lora.py), which keeps one more than its rule says; the last three LyCORIS' (f49d30d).

    - fixed: ``most`` of them
    - sv_ratio: those with S > S_1 / value
    - sv_cumulative: the fewest whose sum is at least value * sum(S)
    - sv_fro: the fewest whose root of the sum of squares is at least value * ||S||
    - threshold: those with S > value
    - ratio: those with S > value * S_1
    - quantile: those at which the running sum is still below value * sum(S)

    Attributes:
        most: never more than this; None for no limit.
    """

    kind: str = "fixed"
    value: float = 0.0
    most: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in RULES:
            raise StudioError("unknown rule", field="rank rule", came=self.kind, allowed=RULES)
        if self.most is not None and self.most < 1:
            raise StudioError("not allowed", field="rank", came=self.most, allowed="a whole number, at least 1")
        words, is_allowed = _RANGES.get(self.kind, _SHARE)
        if self.kind != "fixed" and not is_allowed(self.value):
            raise StudioError("not allowed", field=self.kind, came=self.value, allowed=words)

    @property
    def needs_all(self) -> bool:
        """Whether every singular value must be known, and not the ``most`` largest alone."""
        return self.most is None or self.kind in _NEED_ALL

    def rank(self, singular: Tensor, energy: float | None = None) -> int:
        """The rank for the singular values [n], descending. Values of 0 are never kept.

        Args:
            energy: sum of the squares of all of them where ``singular`` are only the largest.
        """
        kept = min(self._wanted(singular.double(), energy), int((singular > 0).sum()))
        return kept if self.most is None else min(kept, self.most)

    def _wanted(self, s: Tensor, energy: float | None) -> int:
        if self.kind == "fixed" or not len(s):
            return len(s)
        if self.kind == "sv_ratio":
            return int((s > s[0] / self.value).sum())
        if self.kind == "threshold":
            return int((s > self.value).sum())
        if self.kind == "ratio":
            return int((s > self.value * s[0]).sum())
        if self.kind == "quantile":
            return int((s.cumsum(0) < self.value * s.sum()).sum())
        if self.kind == "sv_fro":
            squares = s.square().cumsum(0)
            return _fewest(squares, self.value**2 * (float(squares[-1]) if energy is None else energy))
        return _fewest(s.cumsum(0), self.value * float(s.sum()))


def _fewest(running: Tensor, target: float) -> int:
    """How many of the terms bring the running sum to the target; rounding of the last digits is no term more."""
    return min(len(running), int((running < target * (1 - 1e-12)).sum()) + 1)


class Truncated(NamedTuple):
    """W ~ up @ down.

    Attributes:
        up: [out, r]; up and down share the singular values' roots, so that neither leaves a small dtype's range.
        down: [r, in].
        singular: the singular values that are known, descending; all of them, or the largest.
        norm: ||W||_F.
        error: ||W - up @ down||_F.
        best: the smallest error that any matrices of this rank have; an estimate where ``singular`` are not all.
    """

    up: Tensor
    down: Tensor
    singular: Tensor
    norm: float
    error: float
    best: float

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def lost(self) -> float:
        """||W - up @ down|| / ||W||; 0 for a W of zeros."""
        return self.error / self.norm if self.norm else 0.0

    @property
    def excess(self) -> float:
        """How much larger than the best the error is, as a share of the best."""
        return self.error / self.best - 1 if self.best > 0 else 0.0


# Gram matrices hold squares: of 16 digits, 8 are left for the singular values. What lies below these shares of the
# largest squares is found by QR instead, which keeps all 16.
_KEPT_FLOOR = 1e-11
_LOST_FLOOR = 1e-8
# A singular value below this share of what it was summed up from is rounding, and stands for 0.
_ZERO = 1e-13


class FactorSvd:
    """The singular values of W = up @ down, from r x r matrices alone.

    With G_u = up^T up, G_d = down down^T = L L^T and the eigenvectors B of L^T G_u L = B S^2 B^T:

        W_k = (up X_k) (S_k^-2 X_k^T G_u down),  X = L B
    """

    def __init__(self, up: Tensor, down: Tensor) -> None:
        """``up`` [out, r] and ``down`` [r, in] of any dtype; all is computed in float64."""
        self._up, self._down = up, down
        wide = up.double()
        self._gram_up = wide.T @ wide
        wide = down.double()
        gram_down = wide @ wide.T
        _refuse_infinite(gram_down.trace() + self._gram_up.trace())
        root = _square_root(gram_down)
        squares, vectors = torch.linalg.eigh(root.T @ self._gram_up @ root)
        self._basis = (root @ vectors).flip(1)
        self._floor = float(self._gram_up.trace() * gram_down.trace())
        self.singular = squares.flip(0).clamp_min(0).sqrt()
        self.singular[min(up.shape[0], down.shape[1]) :] = 0

    def cut(self, rule: RankRule) -> Truncated:
        """The best approximation of the rank that the rule says."""
        rank = rule.rank(self.singular)
        if not self._trusts(rank):
            return _by_qr(self._up.double(), self._down.double(), rule)
        kept = self.singular[:rank]
        basis, roots = self._basis[:, :rank], kept.sqrt()
        up = self._up.double() @ (basis / roots)
        down = (self._gram_up @ basis / (kept * roots)).T @ self._down.double()
        return _truncated(up, down, self.singular)

    def _trusts(self, rank: int) -> bool:
        squares = self.singular.square()
        lost, last = float(squares[rank:].sum()), float(squares[rank - 1]) if rank else self._floor
        is_whole = rank == len(squares) or lost > _LOST_FLOOR * float(squares.sum())
        return bool(squares.sum() > 0) and is_whole and last > _KEPT_FLOOR * self._floor


def _refuse_infinite(size: Tensor) -> None:
    """A look at a number that is finite only where all of a matrix's values are.

    Raises:
        StudioError: it is not.
    """
    if not size.isfinite():
        raise StudioError(
            "a layer's change holds infinite values or none at all (NaN)", allowed="finite numbers; verify names layers"
        )


def _square_root(gram: Tensor) -> Tensor:
    """L [r, r] with L L^T = gram, positive semidefinite."""
    root, failed = torch.linalg.cholesky_ex(gram)
    if not failed:
        return root
    squares, vectors = torch.linalg.eigh(gram)
    return vectors * squares.clamp_min(0).sqrt()


def _by_qr(up: Tensor, down: Tensor, rule: RankRule) -> Truncated:
    """As ``FactorSvd.cut``, slower and to the last digit: up = Q_u R_u, down^T = Q_d R_d, SVD of R_u R_d^T."""
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    left, singular, right = torch.linalg.svd(r_up @ r_down.T)
    noise = _ZERO * float(up.norm() * down.norm())
    singular = torch.where(singular > noise, singular, 0.0)
    rank = rule.rank(singular)
    roots = singular[:rank].sqrt()
    up, down = q_up @ (left[:, :rank] * roots), (right[:rank] * roots[:, None]) @ q_down.T
    return _truncated(up, down, singular)


def _truncated(up: Tensor, down: Tensor, singular: Tensor) -> Truncated:
    error = float(singular[up.shape[1] :].norm())
    return Truncated(up, down, singular, float(singular.norm()), error, error)


def truncate_factors(up: Tensor, down: Tensor, rule: RankRule) -> Truncated:
    """The best approximation of up @ down, [out, r] times [r, in], in float64."""
    return FactorSvd(up, down).cut(rule)


_OVERSAMPLING = 10
_MAX_BLOCKS = 12
# The search ends when a further block has lowered the error by no more than this share of it.
_SEARCH_TOLERANCE = 2e-3
# What further blocks would still lower it by, in such last falls; flat spectra fall slowly.
_MORE_FALLS = 3
# Below this share of the norm, ||W||^2 - sum(S^2) is rounding, and the error is measured instead.
_MEASURED_BELOW = {torch.float64: 1e-6, torch.float32: 3e-2}
_GRAM_REACH = 1e-4
# Below this share of the norm, float32 cannot tell good directions of the rest from bad ones beside the largest: these
# are taken off first, down to this share of the largest.
_TAKEN_OFF = 3e-2
# What rounding in float32 adds to a sum of squares, as a share of it.
_ROUNDING = 1e-6
# A search pays where the rank is less than about this part of the matrix's smaller side.
_SEARCH_SHARE = 10


def truncate_dense(matrix: Tensor, rule: RankRule, exact: bool = False) -> Truncated:
    """An approximation of W [m, n].

    ``exact`` (and where the rule needs all singular values, or W is small): from the eigenvectors of the whole Gram
    matrix in float64. Else from a block Krylov space of random start (Musco and Musco 2015, arXiv 1504.05477) in
    float32, widened until the error falls no more; from its last fall comes the estimate of what ``best`` is lower by.
    """
    _refuse_infinite(matrix.abs().max() if matrix.numel() else torch.zeros(()))
    if matrix.shape[0] < matrix.shape[1]:
        flipped = truncate_dense(matrix.T, rule, exact)
        return flipped._replace(up=flipped.down.T, down=flipped.up.T)
    if exact or rule.needs_all or _SEARCH_SHARE * (rule.most + _OVERSAMPLING) > matrix.shape[1]:
        return _dense_exact(matrix.double(), rule)
    matrix = matrix.float()
    found = _search(matrix, rule.most)
    rank = rule.rank(found.singular, found.norm**2)
    if rank == found.rank:
        return found
    more = math.sqrt(found.error**2 + float(found.singular[rank:].double().square().sum()))
    best = math.sqrt(found.best**2 + float(found.singular[rank:].double().square().sum()))
    return found._replace(up=found.up[:, :rank], down=found.down[:rank], error=more, best=best)


def _dense_exact(matrix: Tensor, rule: RankRule) -> Truncated:
    """W [m, n] with m >= n, float64."""
    squares, vectors = torch.linalg.eigh(matrix.T @ matrix)
    singular = squares.flip(0).clamp_min(0).sqrt()
    rank = rule.rank(singular)
    # The Gram matrix has half of the digits; a step of W itself on its eigenvectors gives the others back.
    found = _on_images(matrix, matrix @ vectors.flip(1)[:, :rank], rank)
    best = float(singular[rank:].norm())
    # Where the Gram matrix's digits do not reach, the error itself is all that is known of the best.
    best = min(best, found.error) if best > _GRAM_REACH * found.norm else found.error
    return found._replace(singular=torch.cat([found.singular, singular[rank:]]), best=best)


def _search(matrix: Tensor, rank: int) -> Truncated:
    """The largest singular values and vectors of W [m, n], m >= n, float32, in the space that V, (W^T W) V,
    (W^T W)^2 V, ... span, as many as lower the error."""
    generator = torch.Generator().manual_seed(0)
    block = torch.linalg.qr(torch.randn(matrix.shape[1], rank + _OVERSAMPLING, generator=generator))[0]
    basis, images = block, matrix @ block
    energy = _energy(matrix)
    if not energy:
        return _on_images(matrix, images, 0)
    before, fall, blocks = math.inf, math.inf, 1
    while fall > _SEARCH_TOLERANCE and blocks < _MAX_BLOCKS:
        block = matrix.T @ images[:, -block.shape[1] :]
        for _ in range(2):  # twice is enough (Parlett 1980)
            block = block - basis @ (basis.T @ block)
        block = torch.linalg.qr(block)[0]
        if basis.shape[1] + block.shape[1] > matrix.shape[1]:
            return _dense_exact(matrix.double(), RankRule(most=rank))
        basis, images, blocks = torch.cat([basis, block], 1), torch.cat([images, matrix @ block], 1), blocks + 1
        squares = torch.linalg.eigvalsh(images.double().T @ images.double())
        error = math.sqrt(max(energy - float(squares[-rank:].sum()), 0.0))
        fall, before = (before - error) / max(error, 1e-4 * math.sqrt(energy)), error
    found = _on_images(matrix, images, rank)
    large = int((found.singular > _TAKEN_OFF * found.singular[0]).sum())
    if found.error < _TAKEN_OFF * found.norm and large < rank:
        return _beside(found, large, _search(matrix - found.up[:, :large] @ found.down[:large], rank - large))
    unseen = _ROUNDING * energy / found.error**2 / 2 if found.error else 0.0
    return found._replace(best=found.error / (1 + _MORE_FALLS * max(fall, 0.0) + unseen))


def _beside(found: Truncated, large: int, rest: Truncated) -> Truncated:
    """The ``large`` first directions of one approximation, and those of what was left of the matrix without them."""
    singular = torch.cat([found.singular[:large], rest.singular])
    up, down = torch.cat([found.up[:, :large], rest.up], 1), torch.cat([found.down[:large], rest.down])
    return rest._replace(up=up, down=down, singular=singular, norm=found.norm)


def _energy(matrix: Tensor) -> float:
    """Sum of squares, to more digits than float32 has."""
    return sum(float(rows.square().sum()) for rows in matrix.split(64))


def _on_images(matrix: Tensor, images: Tensor, rank: int) -> Truncated:
    """The best approximation of W [m, n] of this rank, or less, whose columns lie in the span of ``images`` [m, p]."""
    columns = torch.linalg.qr(images)[0]
    rows, core = torch.linalg.qr((columns.T @ matrix).T)
    left, singular, right = torch.linalg.svd(core.T)
    singular = singular[:rank]
    roots = singular.sqrt()
    up, down = columns @ (left[:, :rank] * roots), (right[:rank] * roots[:, None]) @ rows.T
    energy = _energy(matrix)
    norm = math.sqrt(energy)
    error = math.sqrt(max(energy - float(singular.double().square().sum()), 0.0))
    if error < _MEASURED_BELOW[matrix.dtype] * norm:
        error = float((matrix - up @ down).norm())
    return Truncated(up, down, singular, norm, error, error)


def spend_budget(
    spectra: Mapping[str, Tensor], costs: Mapping[str, int], budget: int, most: int | None = None
) -> dict[str, int]:
    """The rank of each layer under which the total error is smallest for the price.

    The next rank always goes to the layer whose next singular value brings most, S^2 per byte, among those whose
    next rank can still be paid.

    Args:
        spectra: per layer the singular values, descending.
        costs: per layer, the bytes of one rank.
        budget: bytes for all of them.
        most: of any layer.
    """
    ranks = dict.fromkeys(spectra, 0)
    values = {key: s[:most].double().square().tolist() for key, s in spectra.items()}
    heap = [(-own[0] / costs[key], key) for key, own in values.items() if own and own[0] > 0]
    heapq.heapify(heap)
    while heap:
        _, key = heapq.heappop(heap)
        if costs[key] > budget:
            continue
        budget -= costs[key]
        ranks[key] += 1
        own = values[key]
        if ranks[key] < len(own) and own[ranks[key]] > 0:
            heapq.heappush(heap, (-own[ranks[key]] / costs[key], key))
    return ranks
