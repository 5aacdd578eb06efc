"""What a real A1111 WebUI makes of our LoRA files; run by its own interpreter.

    python webui_lora_driver.py WEBUI_FOLDER CHECKPOINT TASK.json OUT.json DATA_FOLDER

TASK.json: {"loras": [names in DATA_FOLDER/Lora], "strengths": [...], "prompt": "...", "latents": nested list
[1,4,h,w], "timestep": t, "size_px": [height, width]}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from webui_driver import start


def main(webui: str, checkpoint: str, task: str, out: str, data: str) -> None:
    task, out = json.loads(Path(task).read_text(encoding="utf-8")), Path(out).resolve()
    start(Path(webui).resolve(), Path(checkpoint).resolve(), Path(data).resolve())
    files = {name: keys(name) for name in task["loras"]}
    result = {
        "predictions": [
            {"lora": name, "strength": strength, "values": predict(task, name, strength)}
            for name in [None, *task["loras"]]
            for strength in (task["strengths"] if name else [0.0])
        ],
        "files": {name: {**found, "failed": errors().get(name, 0)} for name, found in files.items()},
    }
    out.write_text(json.dumps(result), encoding="utf-8")


def keys(name: str) -> dict:
    """How many layers of the model a file matches, and its keys that match none."""
    import networks
    from modules import sd_models

    networks.list_available_networks()
    on_disk = networks.available_networks[name]
    network = networks.load_network(name, on_disk)
    matched = {module.network_key.split(".")[0] for module in network.modules.values()}
    tensors = sd_models.read_state_dict(on_disk.filename)
    return {"layers": len(network.modules), "unmatched": [key for key in tensors if key.split(".")[0] not in matched]}


def errors() -> dict:
    """How often the WebUI failed to apply a LoRA to a layer, which it tells at the end of a generation alone."""
    import networks

    return networks.extra_network_lora.errors


def predict(task: dict, name: str | None, strength: float) -> list:
    """The UNet's prediction for the task's latents and prompt, with the LoRA as a prompt would apply it."""
    import networks
    import torch
    from modules import devices, prompt_parser, shared

    networks.load_networks(*(([name], [strength], [strength], [None]) if name else ([], [], [], [])))
    height, width = task["size_px"]
    text = prompt_parser.SdConditioning([task["prompt"]], width=width, height=height)
    with torch.no_grad(), devices.autocast():
        conditioning = prompt_parser.get_learned_conditioning(shared.sd_model, text, 20)[0][0].cond
        if not isinstance(conditioning, dict):
            conditioning = {"crossattn": conditioning}
        prediction = shared.sd_model.model.diffusion_model(
            torch.tensor(task["latents"]),
            torch.tensor([task["timestep"]]),
            context=conditioning["crossattn"][None],
            y=conditioning["vector"][None] if "vector" in conditioning else None,
        )
    return prediction.float().tolist()


if __name__ == "__main__":
    main(*sys.argv[1:])
