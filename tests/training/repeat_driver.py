"""Train the same LoRA several times in one process and print a hash of each, by order of training.

    python repeat_driver.py options.json threads times
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch

from lib_lora.base.options import from_mapping
from lib_lora.files.lora_file import LoraFile
from lib_lora.models.loader import load_model
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run


def main():
    options = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(int(sys.argv[2]))
    model = load_model(options["pretrained_model_name_or_path"])
    for number in range(int(sys.argv[3])):
        job = Run(from_mapping(TrainConfig, {**options, "output_name": f"n{number}"}), model=model)
        for _ in job.events():
            pass
        tensors = LoraFile.read(job.outputs.final).tensors
        digest = hashlib.sha256(b"".join(bytes(tensors[key].bytes()) for key in sorted(tensors)))
        print(digest.hexdigest())


if __name__ == "__main__":
    main()
