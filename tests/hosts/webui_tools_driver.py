"""What a real A1111 WebUI makes of LoRA files, merged files and baked checkpoints; run by its own interpreter.

    python webui_tools_driver.py WEBUI_FOLDER CHECKPOINT TASK.json OUT.npz DATA_FOLDER

TASK.json: {"names": [in DATA_FOLDER/Lora], "applied": [[name, te, unet], ...], "keys": [of the checkpoint], "prompts":
[prompt, ...], "checkpoints": [[path, prompt], ...], "case": of a picture}. OUT.npz: "name key" for the weights with a
LoRA in them, "errors" and, of "names", "unmatched" as JSON, the pictures as "prompt N" and "checkpoint N", uint8
[h, w, 3].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from webui_driver import picture, start


def main(webui: str, checkpoint: str, task: str, out: str, data: str) -> None:
    task, out = json.loads(Path(task).read_text(encoding="utf-8")), Path(out).resolve()
    start(Path(webui).resolve(), Path(checkpoint).resolve(), Path(data).resolve())
    import networks
    import numpy as np

    networks.list_available_networks()
    result, errors = {}, {}
    unmatched = {name: sorted(lost(name)) for name in task["names"]}
    for name, te, unet in task["applied"]:
        for key, values in applied(name, te, unet, task["keys"]).items():
            result[f"{name} {key}"] = values
        errors[name] = dict(networks.extra_network_lora.errors)
        networks.extra_network_lora.errors.clear()
    for number, prompt in enumerate(task["prompts"]):
        result[f"prompt {number}"] = np.asarray(picture({**task["case"], "prompt": prompt}).convert("RGB"))
    for number, (path, prompt) in enumerate(task["checkpoints"]):
        switch_to(path)
        result[f"checkpoint {number}"] = np.asarray(picture({**task["case"], "prompt": prompt}).convert("RGB"))
    np.savez(out, errors=np.array(json.dumps(errors)), unmatched=np.array(json.dumps(unmatched)), **result)


def lost(name: str) -> set[str]:
    """The modules of a file that the loaded model has no place for."""
    import networks
    from modules import sd_models

    on_disk = networks.available_networks[name]
    network = networks.load_network(name, on_disk)
    found = {module.network_key.split(".")[0] for module in network.modules.values()}
    return {key.split(".")[0] for key in sd_models.read_state_dict(on_disk.filename)} - found


def applied(name: str, te: float, unet: float, keys: list[str]) -> dict:
    """The model's tensors with a LoRA in them, as its layers have them when they compute."""
    import networks
    import torch
    from modules import shared
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

    networks.load_networks([name], [te], [unet], [None])
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.MultiheadAttention)
    with torch.no_grad():
        for module in shared.sd_model.network_layer_mapping.values():
            # Attention computes with its output's weight itself, and never calls it.
            if isinstance(module, kinds) and not isinstance(module, NonDynamicallyQuantizableLinear):
                networks.network_apply_weights(module)
    tensors = {key.replace(".wrapped.", "."): tensor for key, tensor in shared.sd_model.state_dict().items()}
    return {key: tensors[key].detach().float().numpy().copy() for key in keys}


def switch_to(path: str) -> None:
    """Load another checkpoint."""
    from modules import sd_models, shared

    info = sd_models.CheckpointInfo(path)
    info.register()
    shared.opts.data["sd_model_checkpoint"] = info.title
    sd_models.reload_model_weights(info=info)


if __name__ == "__main__":
    main(*sys.argv[1:])
