from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.text.chunks import chunk_caption, chunk_prompt
from lib_lora.text.tokenizer import Tokenizer
from tiny import write_clip_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_folder(folder)


def words(tokenizer, chunk):
    """What stands between the chunk's begin and its first end."""
    assert len(chunk.ids) == len(chunk.weights) == 77
    assert chunk.ids[0] == tokenizer.bos_id
    return tokenizer.decode(chunk.ids[1 : chunk.ids.index(tokenizer.eos_id)])


def divided(tokenizer, prompt, **how):
    return [words(tokenizer, chunk) for chunk in chunk_prompt(prompt, tokenizer, **how)]


def test_a_short_prompt_is_one_chunk_with_begin_end_and_filling(tokenizer):
    (chunk,) = chunk_prompt("red (cat:1.5)", tokenizer)
    red, cat = tokenizer.encode("red cat")
    assert chunk.ids == (tokenizer.bos_id, red, cat) + (tokenizer.eos_id,) * 74
    assert chunk.weights == (1.0, 1.0, 1.5) + (1.0,) * 74


def test_an_empty_prompt_is_one_empty_chunk(tokenizer):
    (chunk,) = chunk_prompt("", tokenizer)
    assert chunk.ids == (tokenizer.bos_id,) + (tokenizer.eos_id,) * 76


def test_sd2_is_filled_with_its_own_token_after_the_first_end(folder):
    tokenizer = Tokenizer.from_folder(folder, pad_id=0)
    (chunk,) = chunk_prompt("red", tokenizer)
    assert chunk.ids[2:] == (tokenizer.eos_id,) + (0,) * 74
    (full,) = chunk_prompt("red " * 75, tokenizer)
    assert full.ids[-1] == tokenizer.eos_id


def test_75_tokens_fit_and_the_76th_begins_a_chunk(tokenizer):
    assert divided(tokenizer, "red " * 75) == ["red " * 74 + "red"]
    assert divided(tokenizer, "red " * 75 + "cat") == ["red " * 74 + "red", "cat"]


@pytest.mark.parametrize(("after_comma", "moves"), [(1, True), (19, True), (20, False), (40, False)])
def test_what_follows_a_near_comma_moves_into_the_next_chunk(tokenizer, after_comma, moves):
    before = 74 - after_comma
    first, second = divided(tokenizer, "red " * before + "," + "cat " * (after_comma + 3))
    moved = after_comma if moves else 0
    assert first.split() == ["red"] * before + [","] + ["cat"] * (after_comma - moved)
    assert second.split() == ["cat"] * (3 + moved)


def test_a_comma_that_does_not_fit_begins_the_next_chunk(tokenizer):
    assert divided(tokenizer, "red " * 75 + ", cat") == ["red " * 74 + "red", ", cat"]


def test_moved_tokens_keep_their_weights(tokenizer):
    _, second = chunk_prompt("red " * 70 + ", (cat " * 1 + "cat " * 6 + ":1.5)", tokenizer)
    assert second.weights[:9] == (1.0,) + (1.5,) * 7 + (1.0,)


def test_without_backtracking_a_chunk_ends_where_it_is_full(tokenizer):
    first, second = divided(tokenizer, "red " * 70 + "," + "cat " * 8, comma_backtrack=0)
    assert (len(first.split()), len(second.split())) == (75, 4)


def test_break_begins_a_chunk(tokenizer):
    assert divided(tokenizer, "red BREAK cat") == ["red", "cat"]
    assert divided(tokenizer, "BREAK cat") == ["", "cat"]
    assert divided(tokenizer, "red BREAK") == ["red"]


def test_without_emphasis_brackets_are_text(tokenizer):
    (chunk,) = chunk_prompt("(red:1.5)", tokenizer, emphasis=False)
    assert words(tokenizer, chunk) == "( red : 1 . 5 )"
    assert set(chunk.weights) == {1.0}


@pytest.mark.parametrize("max_tokens", [75, 150, 225])
def test_captions_are_cut_as_sd_scripts_cuts_them(tokenizer, max_tokens):
    caption = "red, " * 40 + "blue cat " * 90
    # sd-scripts' train_util.get_input_ids: begin + tokens cut at max_token_length + end, filled with the end token;
    # then the first id, 75 of the middle, and the last id for every chunk.
    flat = [tokenizer.bos_id, *tokenizer.encode(caption)[:max_tokens], tokenizer.eos_id]
    flat += [tokenizer.eos_id] * (max_tokens + 2 - len(flat))
    expected = [(flat[0], *flat[i : i + 75], flat[-1]) for i in range(1, max_tokens + 1, 75)]
    assert [chunk.ids for chunk in chunk_caption(caption, tokenizer, max_tokens)] == expected


def test_a_short_caption_is_one_chunk_and_its_brackets_are_text(tokenizer):
    (chunk,) = chunk_caption("(red)", tokenizer, 225)
    assert words(tokenizer, chunk) == "( red )"
    assert len(chunk_caption("", tokenizer, 150)) == 1


@pytest.mark.parametrize("max_tokens", [0, 74, 76, 77])
def test_other_lengths_are_refused(tokenizer, max_tokens):
    with pytest.raises(StudioError, match="max_token_length"):
        chunk_caption("red", tokenizer, max_tokens)


def test_weights_in_captions_are_read_and_divided_as_a_prompts(tokenizer):
    caption = "red (cat:1.5) [dog] " * 40
    assert chunk_caption(caption, tokenizer, 750, weighted=True) == chunk_prompt(caption, tokenizer)
    assert chunk_caption(caption, tokenizer, 75, weighted=True) == chunk_prompt(caption, tokenizer)[:1]
