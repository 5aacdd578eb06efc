"""Train the bundled demo checkpoint from nothing: a small Stable Diffusion 1 for the world of world.py.

Stages, each going on from what is in the work folder:

    python demo/make_checkpoint.py text --work WORK     # tokenizer and text encoder, some minutes on one core
    python demo/make_checkpoint.py latents --work WORK  # the latents of 40,000 drawn pictures, one minute
    python demo/make_checkpoint.py unet --work WORK     # the UNet, about 145 minutes on one core
    python demo/make_checkpoint.py vae --work WORK      # encoder and decoder, may run beside the UNet
    python demo/make_checkpoint.py export --work WORK   # writes demo/model/

The file in demo/model was made so, with changes of the UNet's recipe on the way: the first 1,550 of its 6,700 steps
ran with a learning rate of 1e-3 and an snr_floor of 0.02, the first 3,300 without noise_play, and the first 4,700 on a
cosine that was to end there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from latents import LatentSet, PatchComponents, draw_latents
from ldm_layout import YAML, ldm_state_dict
from text_encoder import CaptionMaker, CaptionOdds, make_text_encoder, pretrain_text_encoder
from tokenizer import write_tokenizer
from unet import UNetRecipe, train_unet
from vae import VaeRecipe, fit_vae
from world import PICTURE_PX

NAME = "lora-studio-demo"
CLIP_FOLDER = f"{NAME}-clip"
METADATA = {
    "format": "pt",
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "stable-diffusion-v1",
    "modelspec.title": "LoRA Studio demo",
    "modelspec.description": "A small model of a drawn world, made by demo/make_checkpoint.py",
    "modelspec.license": "AGPL-3.0-or-later",
    "modelspec.resolution": f"{PICTURE_PX}x{PICTURE_PX}",
    "modelspec.prediction_type": "epsilon",
}


def make_text(args: argparse.Namespace) -> None:
    """Write the tokenizer and the trained text encoder."""
    write_tokenizer(args.work / CLIP_FOLDER)
    tokenizer = load_tokenizer(args.work)
    encoder = pretrain_text_encoder(tokenizer, args.steps or 1300)
    torch.save(encoder.state_dict(), args.work / "text.pt")


def load_tokenizer(work: Path) -> CLIPTokenizer:
    """The tokenizer that `make_text` wrote."""
    return CLIPTokenizer.from_pretrained(work / CLIP_FOLDER)


def load_text_encoder(work: Path) -> CLIPTextModel:
    """The text encoder that `make_text` trained."""
    encoder = make_text_encoder(load_tokenizer(work))
    encoder.load_state_dict(torch.load(work / "text.pt", weights_only=True))
    return encoder.eval().requires_grad_(False)


def make_latents(args: argparse.Namespace) -> None:
    """Fit the latent space and draw the training set."""
    components, data = draw_latents(args.steps or 40_000)
    torch.save(vars(components), args.work / "components.pt")
    torch.save(vars(data), args.work / "latents.pt")


def load_components(work: Path) -> PatchComponents:
    """The latent space that `make_latents` fitted."""
    return PatchComponents(**torch.load(work / "components.pt", weights_only=True))


def make_unet_weights(args: argparse.Namespace) -> None:
    """Train the UNet."""
    data = LatentSet(**torch.load(args.work / "latents.pt", weights_only=True))
    maker = CaptionMaker(load_tokenizer(args.work), CaptionOdds())
    train_unet(data, load_text_encoder(args.work), maker, UNetRecipe(steps=args.steps or 6700), args.work)


def make_vae_weights(args: argparse.Namespace) -> None:
    """Fit the VAE to the latent space."""
    fit_vae(load_components(args.work), VaeRecipe(steps=args.steps or 1600), args.work)


def export(args: argparse.Namespace) -> None:
    """Write the checkpoint file, its yaml and the folder of its text encoder."""
    unet = (
        torch.load(args.work / args.snapshot, weights_only=True)
        if args.snapshot
        else load_ema(args.work, "unet")
    )
    encoder = load_text_encoder(args.work)
    weights = ldm_state_dict(unet, load_ema(args.work, "vae"), encoder.state_dict())
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out / f"{NAME}.safetensors", metadata=METADATA)
    (args.out / f"{NAME}.yaml").write_text(YAML.format(clip_folder=CLIP_FOLDER), encoding="utf-8")
    write_tokenizer(args.out / CLIP_FOLDER)
    encoder.config.architectures = ["CLIPTextModel"]
    encoder.config.save_pretrained(args.out / CLIP_FOLDER)


def load_ema(work: Path, network: str) -> dict[str, torch.Tensor]:
    """The averaged weights of the last saved state of "unet" or "vae"."""
    return torch.load(work / f"{network}_state.pt", weights_only=True)["ema"]


STAGES = {
    "text": make_text,
    "latents": make_latents,
    "unet": make_unet_weights,
    "vae": make_vae_weights,
    "export": export,
}


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything in between")
    parser.add_argument(
        "--steps", type=int, help="training steps (for latents: pictures) instead of the default"
    )
    parser.add_argument(
        "--snapshot", help="export: a file unet_ema_<step>.pt of the work folder instead of the last state"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "model", help="export: where to write"
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()
