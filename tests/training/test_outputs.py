"""Which of a run's saves stay."""

from __future__ import annotations

from lib_lora.base.events import Removed, StepDone
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run


def run(options, model, **more) -> Run:
    small = {"network_train_unet_only": True, "network_targets": "cross-attention"}
    job = Run(from_mapping(TrainConfig, {**options, **small, **more}))
    job.model = model
    return job


def saves(options) -> list[str]:
    return sorted(path.stem for path in options["output_dir"].glob("*.safetensors"))


def test_of_the_saves_after_epochs_the_last_ones_stay(train_options, tiny_model):
    """sd-scripts' ``get_remove_epoch_no``: with every 2 and the last 2, after epoch 8 epoch 4 goes."""
    more = {"max_train_steps": None, "max_train_epochs": 9, "train_batch_size": 4}
    job = run(train_options, tiny_model, **more, save_every_n_epochs=2, save_last_n_epochs=2)
    events = list(job.events())
    assert [event.path.stem for event in events if isinstance(event, Removed)] == ["zorb-000002", "zorb-000004"]
    assert saves(train_options) == ["zorb", "zorb-000006", "zorb-000008"]
    assert not {"zorb-000002", "zorb-000004"} & {path.stem for path in events[-1].written}


def test_of_the_saves_after_steps_those_of_the_last_steps_stay_and_what_was_asked_for(train_options, tiny_model):
    """sd-scripts' ``get_remove_step_no``: with every 2 and 4 steps, step 8 removes step 2.

    A save on demand, of step 1, and another run's file, called step 0, stay.
    """
    job, other = run(train_options, tiny_model, max_train_steps=10, save_every_n_steps=2, save_last_n_steps=4), None
    for event in job.events():
        if isinstance(event, StepDone) and event.step == 1:
            job.control.save_lora()
            other = train_options["output_dir"] / "zorb-step00000000.safetensors"
        if other and isinstance(event, StepDone) and event.step == 2:
            first = train_options["output_dir"] / "zorb-step00000001.safetensors"
            other.write_bytes(_of_another_run(first.read_bytes()))
    kept = ["step00000000", "step00000001", "step00000004", "step00000006", "step00000008"]
    assert saves(train_options) == ["zorb", *(f"zorb-{name}" for name in kept)]


def _of_another_run(file: bytes) -> bytes:
    """The same file with another session in its header."""
    at = file.index(b'"ss_session_id":"') + len(b'"ss_session_id":"')
    return file[:at] + (b"1" if file[at : at + 1] != b"1" else b"2") + file[at + 1 :]
