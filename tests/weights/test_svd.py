"""Against numpy's SVD in float64, and against rank rules counted by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.weights.svd import RankRule, spend_budget, truncate_dense, truncate_factors


def best_error(matrix, rank):
    return float(np.linalg.norm(np.linalg.svd(matrix.numpy(), compute_uv=False)[rank:]))


def error_of(found, matrix):
    return float((found.up.double() @ found.down.double() - matrix).norm())


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(m, n, singular, seed=0):
    u, v = (torch.linalg.qr(draw(size, len(singular), seed=seed + i))[0] for i, size in enumerate((m, n)))
    return (u * singular) @ v.T


# (S = 8 4 2 1 1; sums 8 12 14 15 16; squares 64 80 84 85 86), worked out by hand
SINGULAR = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "rule, rank",
    [
        (RankRule(), 5),
        (RankRule(most=3), 3),
        (RankRule("sv_ratio", 3.9), 2),  # S > 2.05
        (RankRule("sv_ratio", 8), 3),  # S > 1: the 1s are not
        (RankRule("sv_cumulative", 0.75), 2),  # 12 of 16, exactly
        (RankRule("sv_cumulative", 0.76), 3),
        (RankRule("sv_fro", math.sqrt(80 / 86)), 2),  # exactly
        (RankRule("sv_fro", 0.97), 3),  # 80.9 of 86
        (RankRule("sv_fro", 1.0), 5),
        (RankRule("sv_fro", 1.0, most=2), 2),
        (RankRule("threshold", 1.5), 3),
        (RankRule("threshold", 9), 0),
        (RankRule("ratio", 0.25), 2),  # S > 2
        (RankRule("quantile", 0.8), 2),  # 12 < 12.8 < 14
    ],
)
def test_rules_keep_as_many_as_they_say_and_not_one_more(rule, rank):
    assert rule.rank(SINGULAR) == rank


def test_zeros_are_never_kept():
    assert RankRule(most=4).rank(torch.tensor([2.0, 1.0, 0.0, 0.0])) == 2
    assert RankRule("sv_fro", 0.9).rank(torch.zeros(3)) == 0


@pytest.mark.parametrize("kind, value", [("fro", 1), ("sv_ratio", 0.5), ("sv_fro", 1.5), ("quantile", -0.1)])
def test_impossible_rules_are_refused(kind, value):
    with pytest.raises(StudioError):
        RankRule(kind, value)


@pytest.mark.parametrize("shape", [(64, 48, 16), (48, 64, 16), (20, 300, 16), (12, 36, 24)])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_factors_are_cut_at_the_optimum(shape, rank):
    out, size, inner = shape
    up, down = draw(out, inner), draw(inner, size, seed=1)
    found = truncate_factors(up.half(), down.half(), RankRule(most=rank))
    matrix = up.half().double() @ down.half().double()
    best = best_error(matrix, rank)
    assert found.rank == rank
    assert error_of(found, matrix) == pytest.approx(best, rel=1e-12, abs=1e-12)
    assert found.error == pytest.approx(best, rel=1e-12, abs=1e-7)
    assert found.norm == pytest.approx(float(matrix.norm()), rel=1e-12)
    expected = np.linalg.svd(matrix.numpy(), compute_uv=False)[:inner]
    assert np.allclose(found.singular[: len(expected)].numpy(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("decay", [1e-2, 1e-4, 1e-6, 1e-9])
def test_steep_spectra_lose_no_digits(decay):
    """Gram matrices alone would see nothing below 1e-8 of the largest."""
    singular = decay ** (torch.arange(8, dtype=torch.float64) / 7)
    up, down = with_spectrum(40, 8, singular), torch.linalg.qr(draw(30, 8, seed=7))[0].T
    for rank in range(1, 8):
        found = truncate_factors(up, down, RankRule(most=rank))
        best = float(singular[rank:].norm())
        assert error_of(found, up @ down) == pytest.approx(best, rel=1e-6, abs=1e-15)


def test_what_cancels_is_found_to_be_nothing():
    up, down = draw(40, 4), draw(4, 30, seed=1)
    found = truncate_factors(torch.cat([up, up], 1), torch.cat([down, -down]), RankRule())
    assert found.rank == 0 and found.up.shape == (40, 0) and found.lost == 0


def test_factors_that_repeat_are_compressed_without_loss():
    up, down = draw(40, 4), draw(4, 30, seed=1)
    found = truncate_factors(torch.cat([up, 2 * up], 1), torch.cat([down, -0.5 * down + 1e-3 * down]), RankRule())
    matrix = up @ down * (1 + 2 * (1e-3 - 0.5))
    assert found.rank == 4
    assert error_of(found, matrix) < 1e-13 * float(up.norm() * down.norm())


def test_a_rule_chooses_each_rank_by_its_own_spectrum():
    up, down = with_spectrum(40, 6, torch.tensor([8.0, 4, 2, 1, 1, 1e-12]).double()), torch.eye(6).double()
    assert truncate_factors(up, down, RankRule("sv_ratio", 3.9)).rank == 2


N = 400
SPECTRA = {
    "slow": torch.arange(1, N + 1).double() ** -0.3,
    "power": torch.arange(1, N + 1).double() ** -1.0,
    "exponential": torch.exp(-torch.arange(N) / 12).double(),
    "low rank and noise": torch.cat([torch.linspace(1, 0.1, 8), torch.full((N - 8,), 1e-3)]).double(),
    "low rank and rounding": torch.cat([torch.linspace(1, 0.1, 8), torch.full((N - 8,), 1e-6)]).double(),
}


@pytest.mark.parametrize("name", [*SPECTRA, "gaussian"])
@pytest.mark.parametrize("flipped", [False, True])
def test_the_search_comes_within_one_percent_and_says_how_near(name, flipped):
    matrix = draw(500, N) if name == "gaussian" else with_spectrum(500, N, SPECTRA[name])
    if name.startswith("low rank"):  # noise of random directions, whose spectrum is not flat
        matrix = with_spectrum(500, N, SPECTRA[name][:8]) + draw(500, N, seed=9) * float(SPECTRA[name][-1]) / 20
    matrix = matrix.T.contiguous() if flipped else matrix
    for rank in (4, 20):
        found = truncate_dense(matrix.float(), RankRule(most=rank))
        excess = error_of(found, matrix) / best_error(matrix, rank) - 1
        assert excess < 0.01
        assert excess < found.excess + 1e-4 < 0.01
        assert found.error == pytest.approx(error_of(found, matrix), rel=1e-4)


@pytest.mark.parametrize("name", SPECTRA)
def test_exact_is_the_optimum(name):
    matrix = with_spectrum(500, N, SPECTRA[name])
    for rank in (4, 20):
        found = truncate_dense(matrix, RankRule(most=rank), exact=True)
        assert error_of(found, matrix) == pytest.approx(float(SPECTRA[name][rank:].norm()), rel=1e-6)
        assert found.excess < 1e-6


@pytest.mark.parametrize(
    "rule", [RankRule("sv_fro", 0.9, 30), RankRule("ratio", 0.19, 30), RankRule("threshold", 0.05, 9)]
)
def test_the_search_obeys_rules_with_a_limit(rule):
    singular = SPECTRA["power"]
    found = truncate_dense(with_spectrum(500, N, singular).float(), rule)
    assert found.rank == rule.rank(singular)
    assert found.error == pytest.approx(float(singular[found.rank :].norm()), rel=0.01)


@pytest.mark.parametrize("kind, value", [("quantile", 0.5), ("sv_cumulative", 0.5)])
def test_rules_over_all_singular_values_look_at_all(kind, value):
    singular = SPECTRA["exponential"]
    rule = RankRule(kind, value, 30)
    assert truncate_dense(with_spectrum(500, N, singular), rule).rank == rule.rank(singular) < 30


def test_a_matrix_of_zeros_has_rank_0():
    for exact in (False, True):
        found = truncate_dense(torch.zeros(300, 200), RankRule(most=4), exact)
        assert (found.rank, found.error, found.lost) == (0, 0, 0)


def test_the_search_uses_no_global_random_numbers():
    matrix = draw(500, N).float()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = truncate_dense(matrix, RankRule(most=4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(first.up, truncate_dense(matrix, RankRule(most=4)).up)


def test_a_budget_is_spent_as_the_best_of_all_ways_to_spend_it():
    spectra = {"a": torch.tensor([5.0, 1.0, 0.2]), "b": torch.tensor([3.0, 2.9, 0.1]), "c": torch.tensor([0.0, 0.0])}
    costs = {"a": 2, "b": 2, "c": 1}
    for budget in range(0, 13, 2):
        ranks = spend_budget(spectra, costs, budget)
        kept = sum(float(spectra[key][:rank].square().sum()) for key, rank in ranks.items())
        ways = itertools.product(range(4), range(4))
        best = max(
            float(spectra["a"][:a].square().sum() + spectra["b"][:b].square().sum())
            for a, b in ways
            if 2 * a + 2 * b <= budget
        )
        assert kept == pytest.approx(best) and ranks["c"] == 0
        assert sum(costs[key] * rank for key, rank in ranks.items()) <= budget


def test_a_budget_respects_the_largest_rank_and_fills_up_with_cheaper_layers():
    spectra = {"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([1.0, 0.9])}
    assert spend_budget(spectra, {"a": 3, "b": 1}, 100, most=2) == {"a": 2, "b": 2}
    assert spend_budget(spectra, {"a": 3, "b": 1}, 4) == {"a": 1, "b": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(value):
    up, down = draw(40, 4), draw(4, 30)
    up[3, 1] = value
    with pytest.raises(StudioError, match="NaN"):
        truncate_factors(up, down, RankRule(most=2))
    with pytest.raises(StudioError, match="NaN"):
        truncate_dense(up @ torch.ones_like(down), RankRule(most=2))
