"""What a finished run has left in its output folder."""

from __future__ import annotations

import csv

import torch
from safetensors.torch import load_file


def lora(options, name="zorb"):
    return load_file(options["output_dir"] / f"{name}.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def rows(options, name="zorb"):
    with open(options["output_dir"] / f"{name}-log" / "loss.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
