"""Tiny folders in diffusers' layout, written by diffusers and transformers themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tiny import write_clip_folder

WIDTH, VOCABULARY = 32, 600
_ATTENTION = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_UNETS: dict[str, dict[str, Any]] = {
    "SD1": {"attention_head_dim": 2},
    "SD2": {"attention_head_dim": (1, 1, 2, 2), "use_linear_projection": True},
    "inpainting": {"attention_head_dim": 2, "in_channels": 9},
    "SDXL": {
        "attention_head_dim": (1, 2, 2),
        "use_linear_projection": True,
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 2 * WIDTH,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": WIDTH + 6 * 8,
    },
}


@dataclass
class TinyPipeline:
    """The modules that a folder was written from."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: list[Any]
    scheduler: dict[str, Any] = field(default_factory=lambda: {"beta_schedule": "scaled_linear"})

    @classmethod
    def make(cls, kind: str) -> TinyPipeline:
        unet = {
            "block_out_channels": (32, 32, 64, 64),
            "down_block_types": _ATTENTION,
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            "cross_attention_dim": WIDTH,
            **_UNETS[kind],
        }
        vae = AutoencoderKL(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=2,
            latent_channels=4,
            scaling_factor=0.13025 if kind == "SDXL" else 0.18215,
        )
        texts = [_text(CLIPTextModel, "gelu" if kind == "SD2" else "quick_gelu")]
        if kind == "SDXL":
            texts.append(_text(CLIPTextModelWithProjection, "gelu"))
        return cls(UNet2DConditionModel(**unet).eval(), vae.eval(), texts)

    def parts(self) -> dict[str, Any]:
        texts = {f"text_encoder{'_2' * index}": encoder for index, encoder in enumerate(self.text_encoders)}
        return {"unet": self.unet, "vae": self.vae, **texts}

    def write(self, folder: Path, **options: Any) -> Path:
        """``options`` go to ``save_pretrained``: variant, safe_serialization, max_shard_size."""
        for name, module in self.parts().items():
            module.save_pretrained(folder / name, **options)
        self.write_rest(folder)
        return folder

    def write_rest(self, folder: Path) -> None:
        """Everything but the weights and their configurations."""
        write_clip_folder(folder / "tokenizer")
        (folder / "tokenizer" / "config.json").unlink()
        (folder / "scheduler").mkdir(exist_ok=True)
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(self.scheduler), encoding="utf-8")
        index = {name: ["diffusers", type(module).__name__] for name, module in self.parts().items()}
        index |= {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "PNDMScheduler"]}
        (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def _text(kind: type, activation: str) -> Any:
    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_attention_heads=2,
        num_hidden_layers=3,
        vocab_size=VOCABULARY,
        hidden_act=activation,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=2,
    )
    return kind(config).eval()


@torch.no_grad()
def unet_output(unet: UNet2DConditionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    config = unet.config
    x = torch.randn(1, config.in_channels, 16, 16, generator=generator)
    context = torch.randn(1, 7, config.cross_attention_dim, generator=generator)
    added = {
        "text_embeds": torch.randn(1, WIDTH, generator=generator),
        "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
    }
    more = {"added_cond_kwargs": added} if config.addition_embed_type else {}
    return unet(x, torch.tensor([400]), encoder_hidden_states=context, **more).sample


@torch.no_grad()
def vae_output(vae: AutoencoderKL) -> torch.Tensor:
    return vae.decode(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))).sample


@torch.no_grad()
def text_output(encoder: Any) -> list[torch.Tensor]:
    out = encoder(torch.tensor([[1, 5, 9, VOCABULARY - 1, 0]]), output_hidden_states=True)
    return [*out.hidden_states, out.text_embeds if hasattr(out, "text_embeds") else out.last_hidden_state]
