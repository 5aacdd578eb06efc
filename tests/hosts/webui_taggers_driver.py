"""A real A1111 WebUI's own taggers, with tiny weights, and ONNX within its process; run by its own interpreter.

    python webui_taggers_driver.py WEBUI_FOLDER CHECKPOINT TASK.json OUT.npz DATA_FOLDER

TASK.json: {"project": the repository's folder, "dataset": a folder of pictures, "models": a folder of ONNX taggers, one
of them called tiny, "tags": of DeepDanbooru}. OUT.npz: "result" is what each scene gave, as JSON; "ours NAME" and
"theirs NAME" are the pictures that DeepDanbooru sees.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from webui_driver import start


def main(webui: str, checkpoint: str, task: str, out: str, data: str) -> None:
    task, out, data = json.loads(Path(task).read_text(encoding="utf-8")), Path(out).resolve(), Path(data).resolve()
    start(Path(webui).resolve(), Path(checkpoint).resolve(), data)
    sys.path.insert(0, task["project"])
    import numpy as np

    result = {"no weights": no_weights(), "onnx": onnx(task)}
    write_deepbooru(task["tags"])
    write_blip(data)
    pictures = fitted_pictures(task)
    result["deepbooru"] = scores(task, "DeepDanbooru")
    result["blip"] = scores(task, "BLIP")
    result["both"] = tagged(task, ["DeepDanbooru", "BLIP"], policy="overwrite")
    result["left"] = left()
    np.savez(out, result=np.array(json.dumps(result)), **pictures)


def tagger(name: str):
    from lib_lora.hosts.webui.host import WebuiHost

    return next(tagger for tagger in WebuiHost().taggers() if tagger.name == name)


def no_weights() -> dict:
    """What a person is told where a download fails."""
    from modules import modelloader

    from lib_lora.base.errors import StudioError

    def fails(*arguments, **options):
        raise OSError("no connection")

    real, modelloader.load_file_from_url = modelloader.load_file_from_url, fails
    told = {}
    for name in ("DeepDanbooru", "BLIP"):
        try:
            tagger(name).__enter__()
        except StudioError as error:
            told[name] = [error.field, str(error)]
    modelloader.load_file_from_url = real
    return told


def write_deepbooru(tags: list) -> None:
    """A model of DeepDanbooru's form in its place: the mean of a colour for each tag in turn."""
    import torch
    from modules import deepbooru_model, paths

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tags = []
            self.linear = torch.nn.Linear(3, len(tags), bias=False)

        def forward(self, pixels):
            return self.linear(pixels.mean(dim=(1, 2)))

        def load_state_dict(self, state, **how):
            self.tags = state["tags"]
            super().load_state_dict({"linear.weight": state["linear.weight"]})

    deepbooru_model.DeepDanbooruModel = Tiny
    folder = Path(paths.models_path, "torch_deepdanbooru")
    folder.mkdir(parents=True, exist_ok=True)
    weight = torch.eye(3).repeat(len(tags) // 3 + 1, 1)[: len(tags)]
    torch.save({"tags": tags, "linear.weight": weight}, folder / "model-resnet_custom_v3.pt")


def write_blip(data: Path) -> None:
    """BLIP's own code with a tiny transformer, a tiny vocabulary and random weights, where the WebUI looks for them."""
    from modules import paths, shared

    shared.interrogator.create_fake_fairscale()
    import models.blip
    import torch
    from models.vit import VisionTransformer
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "picture", "of", "red", "dog", "cat"]
    (data / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")

    def tokenizer():
        made = BertTokenizer(str(data / "vocab.txt"))
        made.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
        made.enc_token_id = made.additional_special_tokens_ids[0]
        return made

    def vit(kind, image_size, *rest, **more):
        return VisionTransformer(img_size=image_size, patch_size=96, embed_dim=16, depth=1, num_heads=2), 16

    models.blip.init_tokenizer, models.blip.create_vit = tokenizer, vit
    blip = Path(paths.paths["BLIP"])
    config = json.loads((blip / "configs" / "med_config.json").read_text(encoding="utf-8"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config |= {**sizes, "vocab_size": len(words), "encoder_width": 16}
    (data / "BLIP" / "configs").mkdir(parents=True)
    (data / "BLIP" / "configs" / "med_config.json").write_text(json.dumps(config), encoding="utf-8")
    paths.paths["BLIP"] = str(data / "BLIP")
    torch.manual_seed(1)
    model = models.blip.BLIP_Decoder(str(data / "BLIP" / "configs" / "med_config.json"), image_size=384, vit="base")
    folder = Path(paths.models_path, "BLIP")
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict()}, folder / "model_base_caption_capfilt_large.pth")


def fitted_pictures(task: dict) -> dict:
    """What DeepDanbooru sees of each picture: ours, and the WebUI's own where no upscaler is set."""
    import numpy as np
    from modules import images, shared
    from PIL import Image

    from lib_lora.hosts.webui.taggers import fitted

    shared.opts.data["upscaler_for_img2img"] = None
    made = {}
    for path in sorted(Path(task["dataset"]).glob("*.png")):
        picture = Image.open(path).convert("RGB")
        made[f"ours {path.stem}"] = fitted(picture)
        with contextlib.suppress(ValueError):  # of a strip theirs makes a picture of no height, and fails
            made[f"theirs {path.stem}"] = np.asarray(images.resize_image(2, picture, 512, 512))

    def refuse(*arguments, **options):
        raise AssertionError("the user's upscaler was run")

    images.resize_image = refuse  # from here on nobody is to ask it
    return made


def scores(task: dict, name: str) -> dict:
    """What a tagger says of each picture, and who has the WebUI's turn then."""
    from modules.call_queue import queue_lock
    from PIL import Image

    said = {}
    with tagger(name) as one:
        paths = sorted(Path(task["dataset"]).glob("*.png"))
        prepared = [one.prepare(Image.open(path).convert("RGB")) for path in paths]
        for path, each in zip(paths, one(prepared)):
            said[path.stem] = [[label.name, label.category, score] for label, score in each.items()]
        taken = queue_lock._lock.locked()
    return {"said": said, "turn taken": taken, "labels": [list(label) for label in one.labels]}


def tagged(task: dict, taggers: list, **options) -> dict:
    """The captions of a run, and its report."""
    from lib_lora.base.events import ToolDone
    from lib_lora.base.signals import Control
    from lib_lora.dataset.collection import Collection
    from lib_lora.hosts.webui.host import WebuiHost
    from lib_lora.tagging.options import TagConfig
    from lib_lora.tagging.run import tag

    config = TagConfig(taggers=tuple(taggers), **options)
    with Collection.open(task["dataset"]) as collection:
        events = list(tag(collection, collection.ids, config, Path(task["models"]), Control(), WebuiHost()))
        assert isinstance(events[-1], ToolDone)
        return {"report": events[-1].report, "captions": {item.stem: item.caption for item in collection.items}}


def onnx(task: dict) -> dict:
    """An ONNX tagger in this process; what a person is told where the WebUI's environment has no onnxruntime."""
    from lib_lora.base.errors import StudioError

    try:
        return tagged(task, ["tiny"])
    except StudioError as error:
        return {"error": str(error), "field": error.field}


def left() -> dict:
    """Where the taggers' models are, and whether the WebUI still makes pictures."""
    from modules import deepbooru, shared
    from webui_driver import picture

    case = {"prompt": "a dog", "seed": 1, "steps": 1, "sampler_name": "Euler a", "width": 64, "height": 64}
    return {
        "deepbooru": str(next(deepbooru.model.model.parameters()).device),
        "blip": str(next(shared.interrogator.blip_model.parameters()).device),
        "clip loaded": shared.interrogator.clip_model is not None,
        "size": picture(case).size,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
