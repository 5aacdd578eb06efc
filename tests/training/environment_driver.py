"""Step 1's gradients and the losses of a few steps, for a comparison between interpreters.

    python environment_driver.py options.json result.safetensors
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib_lora.base.events import StepDone
from lib_lora.base.options import from_mapping
from lib_lora.training import loop, setup
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run


def results(options):
    """Gradients by the parameters' names, and ``losses``."""
    found = {}

    class Watching(loop.Trainer):
        """Notes the first gradients, as they are before they are clipped."""

        def _gradients(self, *arguments):
            sum_of_losses = super()._gradients(*arguments)
            if not found:
                grads = {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}
                found.update({name: grad.detach().clone() for name, grad in grads.items()})
            return sum_of_losses

    plain, setup.Trainer = setup.Trainer, Watching
    try:
        events = list(Run(from_mapping(TrainConfig, options)).events())
    finally:
        setup.Trainer = plain
    found["losses"] = torch.tensor([event.loss for event in events if isinstance(event, StepDone)])
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    save_file(results(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), sys.argv[2])
