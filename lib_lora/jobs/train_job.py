"""The jobs that train: "train" itself, and "preflight", which tries a few steps of it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Checked, Event, Note, Saved
from lib_lora.base.options import from_mapping, to_mapping
from lib_lora.base.protocols import Host, Lease
from lib_lora.base.signals import Control
from lib_lora.files.safetensors_file import read_header
from lib_lora.jobs.caches import trim_cache
from lib_lora.jobs.child import ChildWork
from lib_lora.jobs.job import Job
from lib_lora.jobs.live import LiveWork
from lib_lora.jobs.options import LIVE, TrainJobOptions, way_needed
from lib_lora.jobs.sidecar import write_job_card
from lib_lora.jobs.spec import JOB_KINDS, Prepared
from lib_lora.jobs.train_form import read_form, write_prompts
from lib_lora.training.config import TrainConfig
from lib_lora.training.planning import make_plan

_MOST_UNMATCHED = 5
_FAMILIES = {"sd_v1": "SD1", "sd_v2": "SD2", "sdxl": "SDXL"}
_LOADING_SECONDS = 120.0
_POLL_SECONDS = 0.2


class _TrainingWork:
    """What both kinds have in common.

    Attributes:
        command: of the command line, and what its work is called.
    """

    command: str

    def check(self, values: Mapping[str, Any], host: Host, folder: Path) -> Prepared:
        config, options = read_form(values, host, folder)
        make_plan(config, options.num_processes)
        way, why = way_needed(config, options, host)
        plan = {"config": to_mapping(config), "options": to_mapping(options)}
        return Prepared(config.output_name, plan, way, why)

    def start(self, config: TrainConfig, options: TrainJobOptions, lease: Lease, control: Control) -> Iterator[Event]:
        """Begin the work on a lent model."""
        raise NotImplementedError

    def _options(self, job: Job) -> TrainJobOptions:
        return _options(job)

    def _events(self, job: Job, host: Host, control: Control, config: TrainConfig) -> Iterator[Event]:
        """The work's events, in whichever way it must be done as things stand now."""
        options = self._options(job)
        write_prompts(config, options)
        if job.state.way == LIVE:
            _wait_for_model(job, host, control)
        way, why = way_needed(config, options, host)
        job.change(way=way, way_why=why)
        if way == LIVE:

            def start(lease: Lease, control: Control) -> Iterator[Event]:
                return self.start(config, options, lease, control)

            return LiveWork(job, host, control, config, options, start).events()
        return ChildWork(job, host, control, config, options, self.command).events()


class _Train(_TrainingWork):
    command = "train"
    pausable = True

    def check(self, values: Mapping[str, Any], host: Host, folder: Path) -> Prepared:
        prepared = super().check(values, host, folder)
        config = from_mapping(TrainConfig, prepared.plan["config"])
        if config.overwrite:
            return prepared
        result = config.output_dir / f"{config.output_name}.safetensors"
        if result.exists():
            raise StudioError(
                "a LoRA of this name exists", field="output_name", file=result, allowed="another name, or overwrite"
            )
        return dataclasses.replace(prepared, result=result)

    def run(self, job: Job, host: Host, control: Control) -> Iterator[Event]:
        config = _config(job)
        if job.state.goes_on and _holds_state(config.state_dir):
            config = dataclasses.replace(config, resume=config.state_dir)
        result = None
        try:
            with contextlib.closing(self._events(job, host, control, config)) as events:
                for event in events:
                    yield event
                    if isinstance(event, Saved):
                        yield from _hand_over(event, _options(job), host)
                        result = event.path if event.final else result
        finally:
            trim_cache(host)  # no other job runs, and one that goes on later makes anew what it misses
        if result:  # the host has its model again
            yield from _check_through(host, result, config.pretrained_model_name_or_path)

    def start(self, config: TrainConfig, options: TrainJobOptions, lease: Lease, control: Control) -> Iterator[Event]:
        from lib_lora.training.run import Run

        previewer = lease.previewer if options.preview_with_host else None
        return Run(config, control, model=lease.model, previewer=previewer).events()


class _Preflight(_TrainingWork):
    command = "preflight"
    pausable = False

    def _options(self, job: Job) -> TrainJobOptions:
        # It is over soon, and one card's steps tell of the others'.
        return dataclasses.replace(_options(job), pause_on_generate=False, num_processes=1)

    def run(self, job: Job, host: Host, control: Control) -> Iterator[Event]:
        return self._events(job, host, control, _config(job))

    def start(self, config: TrainConfig, options: TrainJobOptions, lease: Lease, control: Control) -> Iterator[Event]:
        from lib_lora.training.preflight import preflight

        return preflight(config, control, lease.model)


JOB_KINDS.register("train")(_Train())
JOB_KINDS.register("preflight")(_Preflight())


def _wait_for_model(job: Job, host: Host, control: Control) -> None:
    """A WebUI that has just started may still be loading its model."""
    job.say_why("waits until the host has loaded its model")
    deadline = time.monotonic() + _LOADING_SECONDS
    while not (host.lends() or control.stopping or time.monotonic() > deadline):
        time.sleep(_POLL_SECONDS)
    job.say_why(None)


def _config(job: Job) -> TrainConfig:
    return from_mapping(TrainConfig, job.spec.plan["config"])


def _options(job: Job) -> TrainJobOptions:
    return from_mapping(TrainJobOptions, job.spec.plan["options"])


def _holds_state(folder: Path) -> bool:
    """Whether a run can go on from there; half-written states have hidden names."""
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())


def _hand_over(saved: Saved, options: TrainJobOptions, host: Host) -> Iterator[Event]:
    """Let the host know of a file; whatever is wrong with that, the training is not."""
    try:
        if saved.final:
            write_job_card(saved.path, options, _family(saved.path))
        host.lora_written(saved.path)
    except Exception as error:
        yield Note(f"{saved.path.name} is written, but {host.name} could not be told of it: {error}", "warning")


def _family(lora: Path) -> str:
    """The family's name, by the file's own metadata."""
    version = read_header(lora).metadata["ss_base_model_version"]
    return next(name for start, name in _FAMILIES.items() if version.startswith(start))


def _check_through(host: Host, path: Path, checkpoint: Path) -> Iterator[Event]:
    """Load the finished LoRA as the host does; what is wrong is a warning, for the file is there."""
    try:
        check = host.check_lora(path, checkpoint)
    except Exception as error:
        yield Note(f"{path.name} could not be loaded through {host.name}: {error}", "warning")
        return
    yield Checked(path, check.keys, check.matched, list(check.unmatched), check.change)
    if check.matched < check.keys:
        some = ", ".join(list(check.unmatched)[:_MOST_UNMATCHED])
        yield Note(f"{host.name} knows only {check.matched} of {check.keys} keys of {path.name}; not {some}", "warning")
    elif check.change == 0:
        yield Note(f"{path.name} changes nothing in {host.name}: its weights are all zero", "warning")
