from __future__ import annotations

import pytest
import torch

from lib_lora.models.conditioning import Conditioning, stack


def made(texts, chunks, pooled=True):
    generator = torch.Generator().manual_seed(texts * 10 + chunks)
    context = torch.randn(texts, 77 * chunks, 4, generator=generator)
    return Conditioning(context, torch.randn(texts, 3, generator=generator) if pooled else None)


def test_stacking_fills_up_shorter_texts_with_empty_chunks():
    short, long, empty = made(1, 1), made(2, 3), made(4, 1).rows([0])
    both = stack([short, long], empty)
    expected = torch.cat([short.context[0], empty.context[0], empty.context[0]])
    assert torch.equal(both.context[0], expected) and torch.equal(both.context[1:], long.context)
    assert torch.equal(both.pooled, torch.cat([short.pooled, long.pooled]))
    with pytest.raises(ValueError, match="chunks"):
        stack([short, long])


def test_rows_expansion_and_type_keep_both_parts_together():
    texts = made(3, 1)
    picked = texts.rows([2, 0])
    assert torch.equal(picked.context, texts.context[[2, 0]]) and torch.equal(picked.pooled, texts.pooled[[2, 0]])
    wide = texts.rows(slice(0, 1)).expand(4)
    assert wide.context.shape == (4, 77, 4) and wide.pooled.shape == (4, 3) and len(wide) == 4
    half = texts.to(dtype=torch.bfloat16)
    assert half.context.dtype == half.pooled.dtype == torch.bfloat16
    zeros = texts.zeros()
    assert not zeros.context.any() and not zeros.pooled.any() and zeros.pooled.shape == texts.pooled.shape


def test_texts_without_pooled_states_stay_so():
    assert stack([made(1, 1, False), made(1, 1, False)]).pooled is None
    assert made(2, 1, False).to(dtype=torch.float64).rows([1]).expand(3).pooled is None
