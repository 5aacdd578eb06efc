"""What a real A1111 WebUI makes of our LoRA files, and our training inside its process; run by its own interpreter.

    python webui_lora_driver.py WEBUI_FOLDER CHECKPOINT TASK.json OUT.json DATA_FOLDER

TASK.json: {"loras": [names in DATA_FOLDER/Lora], "strengths": [...], "prompt": "...", "latents": nested list
[1,4,h,w], "timestep": t, "size_px": [height, width], "train": options of a TrainConfig, "project": the repository's
folder}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from webui_driver import picture, start


def main(webui: str, checkpoint: str, task: str, out: str, data: str) -> None:
    task, out = json.loads(Path(task).read_text(encoding="utf-8")), Path(out).resolve()
    start(Path(webui).resolve(), Path(checkpoint).resolve(), Path(data).resolve())
    sys.path.insert(0, task["project"])
    result = {
        "files": {name: keys(name) for name in task["loras"]},
        "predictions": [
            {"lora": name, "strength": strength, "values": predict(task, name, strength)}
            for name in [None, *task["loras"]]
            for strength in (task["strengths"] if name else [0.0])
        ],
        "live": train_live(task),
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


def train_live(task: dict) -> dict:
    """Ten steps on the live tensors after a picture whose LoRA stays in the weights, and what that changed."""
    import numpy as np
    import torch
    from modules import shared

    from lib_lora.base.events import StepDone
    from lib_lora.base.options import from_mapping
    from lib_lora.hosts.webui.bridge import borrowed_model, host_options
    from lib_lora.training.config import TrainConfig
    from lib_lora.training.run import Run

    case = {
        "prompt": task["prompt"],
        "seed": 3,
        "steps": 4,
        "sampler_name": "Euler a",
        "cfg_scale": 3.0,
        "width": 64,
        "height": 64,
    }
    with_lora = {**case, "prompt": f"{task['prompt']} <lora:{task['loras'][0]}:1>"}
    before = np.asarray(picture(case))
    weights = {key: tensor.clone() for key, tensor in shared.sd_model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in shared.sd_model.named_parameters()}
    changed = np.asarray(picture(with_lora))  # leaves the LoRA in the weights
    shared.opts.data["CLIP_stop_at_last_layers"] = 2
    options = host_options()
    shared.opts.data["CLIP_stop_at_last_layers"] = 1
    with borrowed_model() as model:
        live = {tensor.untyped_storage().data_ptr() for tensor in shared.sd_model.state_dict().values()}
        ours = [parameter for module in model.modules() for parameter in module.parameters()]
        shared_parameters = sum(parameter.untyped_storage().data_ptr() in live for parameter in ours)
        run = Run(from_mapping(TrainConfig, task["train"]), model=model)
        losses = [event.loss for event in run.events() if isinstance(event, StepDone)]
    after = shared.sd_model.state_dict()
    weights_equal = all(torch.equal(tensor, after[key]) for key, tensor in weights.items())
    new = picture({**case, "prompt": f"{task['prompt']} <lora:{task['train']['output_name']}:1>"})
    return {
        "options": options,
        "prediction": [model.prediction_type, model.prediction_source, model.zero_terminal_snr],
        "losses": losses,
        "parameters": len(ours),
        "shared": shared_parameters,
        "weights_equal": weights_equal,
        "flags_equal": all(p.requires_grad == flags[name] for name, p in shared.sd_model.named_parameters()),
        "hooks": sum(len(module._forward_hooks) for module in shared.sd_model.modules()),
        "lora_changes_picture": not np.array_equal(before, changed),
        "picture_equal": np.array_equal(before, np.asarray(picture(case))),
        "lora_works_again": np.array_equal(changed, np.asarray(picture(with_lora))),
        "new_lora_changes_picture": not np.array_equal(before, np.asarray(new)),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
