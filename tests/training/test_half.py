from __future__ import annotations

import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.events import StepDone
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.half import autocast, check_precision
from lib_lora.training.run import Run

CPU = torch.device("cpu")


def fp16_works():
    try:
        torch.conv2d(torch.ones(1, 1, 2, 2).half(), torch.ones(1, 1, 1, 1).half())
    except RuntimeError:
        return False
    return True


def losses(options, **more):
    job = Run(from_mapping(TrainConfig, {**options, **more}))
    return [event.loss for event in job.events() if isinstance(event, StepDone)]


@pytest.mark.parametrize("name, dtype", [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_matrices_are_multiplied_in_the_precision_asked_for(name, dtype):
    with autocast(CPU, name):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    check_precision(CPU, name)


@pytest.mark.skipif(fp16_works(), reason="this torch computes fp16 on the CPU")
def test_fp16_on_the_cpu_is_refused_by_name_where_torch_cannot(train_options):
    with pytest.raises(StudioError, match=r"mixed_precision.*fp16.*no, bf16"):
        losses(train_options, mixed_precision="fp16")


@pytest.mark.slow
@pytest.mark.skipif(not fp16_works(), reason="this torch has no fp16 on the CPU")
def test_fp16_follows_single_precision_and_its_scale_is_in_the_state(train_options):
    from lib_lora.training.state import read_state

    plain = losses(train_options, output_name="plain", learning_rate=1e-4)
    half = losses(train_options, mixed_precision="fp16", save_state=True, learning_rate=1e-4)
    assert half != plain and half == pytest.approx(plain, rel=0.01)
    state = read_state(train_options["output_dir"] / "zorb-state")
    assert state.machine["scaler"]["good_steps"] + state.machine["scaler"]["skipped"] == 3
    assert all(tensor.dtype == torch.float32 for tensor in state.weights.values())
