"""One of several processes of tests/training/test_processes.py: the scenarios of a JSON file, one after another.

    python process_driver.py scenarios.json results

The environment says how many processes there are and which one this is, as accelerate's launcher does,
and where modules are found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from float64_run import SPEC, Setting
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.base.errors import StudioError
from lib_lora.base.events import StepDone
from lib_lora.base.signals import Control
from lib_lora.training.denoising import Denoising
from lib_lora.training.processes import ALONE, join_processes

DROPPING = NetworkSpec(rank=2, alpha=1.0, dropout=0.2, rank_dropout=0.2, module_dropout=0.2)


def scenario(name, options, processes=ALONE):
    """(losses, weights in float64) of one scenario, or where it ended."""
    setting = Setting(options, DROPPING if "dropout" in name else SPEC)
    control, objective = Control(), Denoising(setting.config, setting.model)

    def failing(model, batch, rng):
        raise ValueError("broken on purpose")

    last_fails = name == "failure" and processes.rank == processes.count - 1
    losses = []
    for event in setting.train(control, failing if last_fails else objective, processes):
        if isinstance(event, StepDone):
            losses.append(event.loss)
            if name == "stop" and event.step == 2 and processes.rank == processes.count - 1:
                control.stop()
    return losses, setting.network.state_tensors(torch.float64)


def main():
    torch.set_num_threads(1)
    scenarios, folder = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    processes = join_processes("cpu")
    results = {"process": [processes.rank, processes.count, processes.is_main]}
    for name, options in scenarios.items():
        try:
            results[name], weights = scenario(name, options, processes)
            save_file(weights, folder / f"{name}-{processes.rank}.safetensors")
        except StudioError as error:
            results[name] = str(error)
        except ValueError:
            processes.failed()
            results[name] = "its own error"
    (folder / f"{processes.rank}.json").write_text(json.dumps(results), encoding="utf-8")
    processes.leave()


if __name__ == "__main__":
    main()
