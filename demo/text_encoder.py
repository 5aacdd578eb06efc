"""The demo's text encoder: CLIP's text model in small, taught to carry its caption beforehand.

Trained from scratch beside a UNet, each tag would be diluted among some 65 padding tokens, and position, size
and shape would mean nothing for a long time. So the encoder first learns to name the caption's tags and words
from the mean of its tokens and from a random padding token. After that it stays as it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tokenizer import MAX_TOKENS
from world import TAGS, random_scene

CONTEXT_DIM = 128
MAX_STRAY_TOKENS = 6


@dataclass(frozen=True)
class CaptionOdds:
    """How often a caption is altered in training."""

    empty: float = 0.1
    partial: float = 0.15  # each tag kept with probability 0.6
    stray: float = 0.1  # one to MAX_STRAY_TOKENS random tokens that mean nothing put in as a tag of their own


class CaptionMaker:
    """Draws scenes with captions as token ids."""

    def __init__(self, tokenizer: CLIPTokenizer, odds: CaptionOdds) -> None:
        self.tokenizer = tokenizer
        self.odds = odds
        self.ids = {}  # tag -> token ids: tokenizing tag by tag is exact, since commas end words
        self.n_plain_tokens = len(tokenizer) - 2

    def tag_ids(self, tag: str) -> list[int]:
        """Token ids of a tag without start and end."""
        if tag not in self.ids:
            self.ids[tag] = self.tokenizer(tag, add_special_tokens=False)["input_ids"]
        return self.ids[tag]

    def draw(self, tags: list[str], rng: np.random.Generator) -> tuple[list[int], list[bool]]:
        """Padded token ids [77] of a caption of these tags, shuffled, and which of them it still names."""
        kept = self.keep_tags(len(tags), rng)
        parts = [self.tag_ids(tag) for tag, is_kept in zip(tags, kept) if is_kept]
        if rng.random() < self.odds.stray and any(kept):
            parts.append(rng.integers(0, self.n_plain_tokens, rng.integers(1, MAX_STRAY_TOKENS + 1)).tolist())
        comma = self.tag_ids(",")
        ids = []
        for i, part in enumerate(rng.permutation(len(parts))):
            ids += (comma if i else []) + parts[part]
        return pad_ids(ids, self.tokenizer), kept

    def keep_tags(self, n_tags: int, rng: np.random.Generator) -> list[bool]:
        """Which of the tags stay in the caption."""
        draw = rng.random()
        if draw < self.odds.empty:
            return [False] * n_tags
        if draw < self.odds.empty + self.odds.partial:
            return (rng.random(n_tags) < 0.6).tolist()
        return [True] * n_tags


def pad_ids(ids: list[int], tokenizer: CLIPTokenizer) -> list[int]:
    """`<|startoftext|>`, the ids, and `<|endoftext|>` up to 77, as Stable Diffusion 1 does it."""
    ids = [tokenizer.bos_token_id, *ids[: MAX_TOKENS - 2]]
    return ids + [tokenizer.eos_token_id] * (MAX_TOKENS - len(ids))


def caption_ids(captions: list[str], tokenizer: CLIPTokenizer) -> Tensor:
    """Token ids [n, 77] of whole captions."""
    rows = tokenizer(captions, add_special_tokens=False)["input_ids"]
    return torch.tensor([pad_ids(row, tokenizer) for row in rows])


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained encoder for the tokenizer's vocabulary: 4 layers, 128 wide."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CONTEXT_DIM,
        intermediate_size=4 * CONTEXT_DIM,
        projection_dim=CONTEXT_DIM,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def encode(encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """Context [n, 77, 128]: the last hidden states after the final layer norm (clip skip 1)."""
    return encoder(input_ids=ids).last_hidden_state


class TagNamer(nn.Module):
    """Reads tags and words from one context vector; only used to train the encoder."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        # One more class for each field: the caption does not name it.
        self.fields = nn.ModuleDict(
            {field: nn.Linear(CONTEXT_DIM, len(names) + 1) for field, names in TAGS.items()}
        )
        self.words = nn.Linear(CONTEXT_DIM, vocabulary)
        nn.init.constant_(self.words.bias, -5.0)  # most words are absent

    def loss(self, vector: Tensor, labels: dict[str, Tensor], words: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and tag accuracy for vectors [n, 128], labels {field: [n]}, present words [n, vocabulary]."""
        logits = {field: layer(vector) for field, layer in self.fields.items()}
        naming = sum(F.cross_entropy(logits[field], labels[field]) for field in logits)
        right = torch.stack([(logits[field].argmax(-1) == labels[field]).float() for field in logits])
        bag = F.binary_cross_entropy_with_logits(self.words(vector), words, reduction="none").sum(-1).mean()
        return naming + 0.3 * bag, right.mean()


def naming_batch(
    maker: CaptionMaker, size: int, rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Token ids [n, 77] and labels {field: [n]} of random captions; the last class means not named."""
    rows, labels = [], {field: [] for field in TAGS}
    for _ in range(size):
        scene = random_scene(rng)
        ids, kept = maker.draw(scene.tags(), rng)
        rows.append(ids)
        for (field, value), is_kept in zip(asdict(scene).items(), kept):
            labels[field].append(TAGS[field].index(value) if is_kept else len(TAGS[field]))
    return torch.tensor(rows), {field: torch.tensor(values) for field, values in labels.items()}


def random_padding(context: Tensor, ids: Tensor, end_id: int) -> Tensor:
    """One random end-of-text vector [n, 128] of each context [n, 77, 128] with ids [n, 77]."""
    pick = torch.rand(ids.shape).masked_fill(ids != end_id, -1).argmax(-1)
    return context[torch.arange(len(ids)), pick]


def pretrain_text_encoder(
    tokenizer: CLIPTokenizer, steps: int, seed: int = 0, batch: int = 32
) -> CLIPTextModel:
    """An encoder from whose mean and padding vectors the caption's tags and words can be read linearly."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder = make_text_encoder(tokenizer)
    namer = TagNamer(len(tokenizer))
    maker = CaptionMaker(tokenizer, CaptionOdds(partial=0.3, stray=0.5))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *namer.parameters()], lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        ids, labels = naming_batch(maker, batch, rng)
        words = torch.zeros(len(ids), len(tokenizer)).scatter_(1, ids, 1.0)
        context = encode(encoder, ids)
        mean_loss, mean_right = namer.loss(context.mean(1), labels, words)
        pad_loss, pad_right = namer.loss(random_padding(context, ids, tokenizer.eos_token_id), labels, words)
        optimizer.zero_grad()
        (mean_loss + pad_loss).backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(
                f"text encoder {step}: loss {mean_loss.item():.3f} {pad_loss.item():.3f}, "
                f"tags named from the mean {mean_right.item():.3f}, from padding {pad_right.item():.3f}",
                flush=True,
            )
    return encoder.eval().requires_grad_(False)
