"""A kind of job that counts: all that the queue sees of one that trains, without training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Paused, Resumed, Saved, StateSaved, StepDone, TrainingEnded, TrainingStarted
from lib_lora.jobs.spec import JOB_KINDS, Prepared


class Counting:
    """``steps`` to count to, each of ``seconds``; ``fail``: the name of an exception at the second step."""

    pausable = True

    def check(self, values: Mapping[str, Any], host: Any, folder: Path) -> Prepared:
        if values["steps"] < 1:
            raise StudioError("counts nothing", field="steps", came=values["steps"], allowed="at least 1")
        result = values.get("result")
        return Prepared("counting", {"steps": values["steps"]}, "live", "counts", Path(result) if result else None)

    def run(self, job: Any, host: Any, control: Any) -> Iterator[Event]:
        total = job.spec.plan["steps"]
        first = int((job.state_folder / "step").read_text()) if job.state.goes_on else 0
        yield TrainingStarted(total, total, 1, first)
        for step in range(first + 1, total + 1):
            if control.pausing:
                yield self._save(job, step - 1)
                yield Paused(step - 1)
                while control.pausing:
                    time.sleep(0.005)
                if not control.stopping:
                    yield Resumed(step - 1)
            if control.stopping:
                break
            time.sleep(job.spec.values.get("seconds", 0))
            if step == 2 and "fail" in job.spec.values:
                raise {"OSError": OSError, "MemoryError": MemoryError}[job.spec.values["fail"]]("on purpose")
            yield StepDone(step, 1, 1 / step, {"unet": 0.1}, 0.5)
        if control.take_state_wish() and not control.aborting:
            yield self._save(job, step - 1)
        ended_early = control.stopping
        if not control.aborting:
            yield Saved(job.folder / "counted", step, final=not ended_early)
        yield TrainingEnded(step, ended_early, 1.0)

    def _save(self, job: Any, step: int) -> Event:
        job.state_folder.mkdir(exist_ok=True)
        (job.state_folder / "step").write_text(str(step))
        return StateSaved(job.state_folder, step)


if "count" not in JOB_KINDS:
    JOB_KINDS.register("count")(Counting())
