import pytest

from lib_lora.text.infotext import caption_of, prompt_of

SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"


@pytest.mark.parametrize(
    "infotext, prompt",
    [
        (f"a cat\nNegative prompt: bad\n{SETTINGS}", "a cat"),
        (f"a cat\n{SETTINGS}", "a cat"),
        (f"a cat,\non a mat\nNegative prompt: bad,\nworse\n{SETTINGS}", "a cat,\non a mat"),
        ("a cat: big, black", "a cat: big, black"),
        (f"\n{SETTINGS}", ""),
        ("", ""),
    ],
)
def test_the_prompt_ends_where_the_negative_prompt_or_the_settings_begin(infotext, prompt):
    assert prompt_of(infotext) == prompt


@pytest.mark.parametrize(
    "prompt, caption",
    [
        ("zorb, red hair <lora:zorb:0.8>", "zorb, red hair"),
        ("<lora:a:1:0.5:lbw=OUTD><hypernet:b:1>zorb", "zorb"),
        ("(masterpiece:1.2), ((zorb)), [dull], a \\(b\\)", "masterpiece, zorb, dull, a (b)"),
        ("zorb BREAK blue sky", "zorb, blue sky"),
        ("zorb\nblue sky,, \n", "zorb, blue sky"),
        ("a [cat:dog:0.5] runs", "a dog runs"),
        ("zorb AND sky :0.5", "zorb, sky"),
        ("zorb # my note\nsky", "zorb, sky"),
        ("zorb, (sky:1.2.3)", "zorb, (sky:1.2.3)"),
        ("1girl, :d, ^_^", "1girl, :d, ^_^"),
        ("", ""),
    ],
)
def test_a_caption_is_what_the_prompt_describes(prompt, caption):
    assert caption_of(prompt) == caption
