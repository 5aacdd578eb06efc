"""The files that a run writes: names, room for them, LoRAs, and what a killed run left."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import save_network
from lib_lora.base.errors import StudioError
from lib_lora.base.events import Saved
from lib_lora.dataset.plan import Plan
from lib_lora.files.atomic import check_writable, remove_leftovers, safe_name
from lib_lora.files.safetensors_file import read_header
from lib_lora.training.config import TrainConfig
from lib_lora.training.metadata import save_metadata
from lib_lora.training.planning import bytes_needed
from lib_lora.training.state import STATE_NAME, find_state, run_of, states_in


@dataclass
class Outputs:
    """Where a run writes. ``written`` are the files so far."""

    config: TrainConfig
    written: list[Path] = field(default_factory=list)

    @property
    def final(self) -> Path:
        return self.lora(self.config.output_name)

    def lora(self, name: str) -> Path:
        return self.config.output_dir / f"{name}.safetensors"

    @property
    def log_folder(self) -> Path:
        return self.config.logging_dir or self.config.output_dir / f"{self.config.output_name}-log"

    @property
    def state_folder(self) -> Path:
        return self.config.state_dir or self.config.output_dir / f"{self.config.output_name}-state"

    def check(self) -> None:
        """That names are free and folders can be written, before anything is loaded.

        Raises:
            StudioError: naming the option at fault.
        """
        config = self.config
        safe_name(config.output_name, field="output_name")
        if not config.overwrite:
            self._check_free()
        check_writable(config.output_dir, field="output_dir")
        check_writable(self.log_folder, field="logging_dir")
        if config.state_dir:
            check_writable(config.state_dir, field="state_dir")

    def _check_free(self) -> None:
        if self.final.exists() and not self._is_of_resumed_run(self.final):
            raise StudioError(
                "a LoRA of this name exists",
                field="output_name",
                file=self.final,
                allowed="another name, or overwrite",
            )
        resumed = self.config.resume and find_state(self.config.resume).parent.resolve()
        if resumed != self.state_folder.resolve() and states_in(self.state_folder):
            raise StudioError(
                "an unfinished run of this name has left its state",
                field="output_name",
                file=self.state_folder,
                allowed="another name, resume to go on with it, or overwrite to begin anew",
            )

    def _is_of_resumed_run(self, lora: Path) -> bool:
        """Whether the run that is gone on with has written it: it was killed before anybody learnt that."""
        if self.config.resume is None:
            return False
        return read_header(lora).metadata.get("ss_session_id") == run_of(self.config.resume)

    def check_room(self, network: Network, plan: Plan) -> None:
        """Refuse to start a run whose files will not fit on the disk.

        Raises:
            StudioError: with the room that there is and that is needed.
        """
        config = self.config
        needed = bytes_needed(config, plan, sum(parameter.numel() for parameter in network.parameters()))
        free = shutil.disk_usage(config.output_dir).free
        if needed > free:
            raise StudioError(
                "not enough room on the disk",
                field="output_dir",
                file=config.output_dir,
                came=f"{free / 2**20:.0f} MB free",
                allowed=f"at least {needed / 2**20:.0f} MB for LoRAs and states",
            )

    def remove_leftovers(self) -> None:
        """Delete the temporary files of a run of this name that was killed."""
        remove_leftovers(self.state_folder, STATE_NAME)
        remove_leftovers(self.config.output_dir, _own_names(self.config.output_name))
        remove_leftovers(self.log_folder, r"loss\.(csv|png)")
        remove_leftovers(self.log_folder / "samples", r".*")

    def save(self, network: Network, name: str, step: int, epoch: int, metadata: dict[str, str]) -> Saved:
        """Write the LoRA as it is."""
        path = self.lora(name)
        values = {**metadata, **save_metadata(step, epoch), "ss_output_name": name}
        save_network(path, network, self.config.save_precision, values)
        self.add(path)
        return Saved(path, step, final=path == self.final)

    def old_epoch_saves(self, epoch: int, run_id: str) -> list[Path]:
        """What ``save_last_n_epochs`` no longer keeps once there is a save after ``epoch``."""
        every, kept = self.config.save_every_n_epochs, self.config.save_last_n_epochs
        return self._saves(r"-(\d{6})", every, range(epoch - every * kept + 1), run_id) if kept else []

    def old_step_saves(self, step: int, run_id: str) -> list[Path]:
        """What ``save_last_n_steps`` no longer keeps once there is a save after ``step``."""
        every, kept = self.config.save_every_n_steps, self.config.save_last_n_steps
        return self._saves(r"-step(\d{8})", every, range(step - kept), run_id) if kept else []

    def saves_behind(self, step: int, epoch: int, run_id: str) -> list[Path]:
        """Those after ``step`` and after ``epoch``, of a way that the run has left."""
        steps, epochs = self.config.save_every_n_steps, self.config.save_every_n_epochs
        found = self._saves(r"-step(\d{8})", steps, range(step + 1, 10**8), run_id) if steps else []
        return found + (self._saves(r"-(\d{6})", epochs, range(epoch + 1, 10**6), run_id) if epochs else [])

    def _saves(self, ending: str, every: int, wanted: range, run_id: str) -> list[Path]:
        """This run's own regular saves of these numbers; what a person has asked for in between stays."""
        name = re.compile(re.escape(self.config.output_name) + ending + r"\.safetensors")
        found = [(path, match) for path in self.config.output_dir.iterdir() if (match := name.fullmatch(path.name))]
        numbers = {path: int(match[1]) for path, match in found}
        old = [path for path, number in numbers.items() if number in wanted and number % every == 0]
        return sorted(path for path in old if read_header(path).metadata.get("ss_session_id") == run_id)

    def remove(self, path: Path) -> None:
        """Delete a file that this run has written."""
        path.unlink(missing_ok=True)
        self.written = [each for each in self.written if each != path]

    def add(self, *paths: Path) -> None:
        self.written += [path for path in paths if path not in self.written]


def _own_names(output_name: str) -> str:
    """The first 32 characters of a LoRA's file name, as a regular expression; see ``files.atomic``."""
    names = []
    for ending in ("", "-best", "-000000", "-step00000000"):
        name = f"{output_name}{ending}.safetensors"[:32]
        own = len(output_name)
        names.append(re.escape(name[:own]) + "".join(r"\d" if c == "0" else re.escape(c) for c in name[own:]))
    return "|".join(names)
