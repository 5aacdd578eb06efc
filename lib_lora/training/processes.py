"""Several processes that train one LoRA together, started by ``accelerate launch`` or by ``train --num_processes``.

Each takes its share of every global batch and has the whole model. Adapter gradients are sums over samples divided by
the global batch's number, so that their sum over the processes is the gradient of one process; a share may be empty,
and an adapter may have no gradient. That is why neither DDP nor accelerate's data loader is used.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control
from lib_lora.training.planning import process_count

# While the first process makes samples or waits in a pause, the others wait for it.
_LONGEST_WAIT = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Wishes:
    """What somebody wants of all processes, asked at any of them."""

    stop: bool = False
    pause: bool = False
    state: bool = False
    lora: bool = False

    @property
    def any(self) -> bool:
        """Whether something is to be done before the next step."""
        return self.pause or self.state or self.lora


class OtherProcessFailed(StudioError):
    """Another process has ended with an error; there is nobody left to talk to."""


class Processes:
    """One process alone, and what several have in common.

    Attributes:
        count: how many there are.
        rank: which one this is, from 0.
        device: where this one computes; None: as the options say.
    """

    count = 1
    rank = 0
    device: torch.device | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes, logs and makes samples."""
        return self.rank == 0

    def share(self, batches: Sequence[list[int]]) -> Sequence[list[int]]:
        """This process's batches of a global batch: every ``count``-th, as accelerate deals them out; maybe none."""
        return batches[self.rank :: self.count]

    def agree(self, control: Control) -> Wishes:
        """What is wished at any process; the same answer for all, who must all ask at the same place.

        Raises:
            OtherProcessFailed: another process has ended with an error.
        """
        return _wishes(control)

    def failed(self) -> None:
        """Tell the others that this process ends with an error; they raise at their next common place."""

    def leave(self) -> None:
        """Say goodbye, as the last thing that this process does with the others."""

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], loss: float) -> float:
        """Replace every gradient by its sum over the processes; the sum of ``loss``. Missing everywhere is missing.

        Raises:
            OtherProcessFailed: another process has ended with an error.
        """
        return loss

    def sum(self, number: float) -> float:
        """The sum of all processes' numbers, who must all ask at the same place.

        Raises:
            OtherProcessFailed: another process has ended with an error.
        """
        return self.sum_gradients([], number)


ALONE = Processes()


def _wishes(control: Control) -> Wishes:
    return Wishes(control.stopping, control.pausing, control.take_state_wish(), control.take_lora_wish())


def join_processes(device: str) -> Processes:
    """Meet the other processes of the launcher, if there are any.

    Raises:
        StudioError: several processes are told to use one card.
    """
    if process_count() == 1:
        return ALONE
    if device not in ("auto", "cpu"):
        raise StudioError("several processes take a card each", field="device", came=device, allowed="auto, cpu")
    return SeveralProcesses(on_cpu=device == "cpu" or not torch.cuda.is_available())


class SeveralProcesses(Processes):
    """Through accelerate's ``PartialState``: its ``Accelerator`` would keep a precision for the process's life."""

    def __init__(self, *, on_cpu: bool) -> None:
        from accelerate import PartialState

        # One for the process's life, however many runs it makes, until ``leave``.
        state = PartialState(cpu=on_cpu, timeout=_LONGEST_WAIT)
        self.count, self.rank, self.device = state.num_processes, state.process_index, state.device

    def agree(self, control: Control) -> Wishes:
        return self._meet(_wishes(control))

    def failed(self) -> None:
        self._reduce(self._flags(Wishes(), failed=True))

    def leave(self) -> None:
        """Gloo's threads must not outlive the interpreter, which they would end with SIGABRT."""
        from accelerate import PartialState

        torch.distributed.destroy_process_group()
        PartialState._reset_state()

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], loss: float) -> float:
        self._meet(Wishes())
        present = [float(parameter.grad is not None) for parameter in parameters]
        loss, *present = self._reduce(torch.tensor([loss, *present], dtype=torch.float64)).tolist()
        wanted = [parameter for parameter, count in zip(parameters, present) if count]
        for dtype in {parameter.dtype for parameter in wanted}:
            self._sum([parameter for parameter in wanted if parameter.dtype == dtype])
        return loss

    def _sum(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """One message for all gradients, which are of one dtype."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        whole = self._reduce(torch.cat([part.detach().reshape(-1) for part in parts]))
        for parameter, part in zip(parameters, whole.split([part.numel() for part in parts])):
            parameter.grad = part.view_as(parameter).clone()

    def _meet(self, wishes: Wishes) -> Wishes:
        stop, pause, state, lora, *failed = self._reduce(self._flags(wishes)).tolist()
        if any(failed):
            names = ", ".join(str(rank) for rank, flag in enumerate(failed) if flag)
            raise OtherProcessFailed(f"process {names} has ended with an error, which it has told itself")
        return Wishes(bool(stop), bool(pause) and not stop, bool(state), bool(lora))

    def _flags(self, wishes: Wishes, *, failed: bool = False) -> torch.Tensor:
        own = [0.0] * self.count
        own[self.rank] = float(failed)
        return torch.tensor([wishes.stop, wishes.pause, wishes.state, wishes.lora, *own], dtype=torch.float64)

    def _reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        from accelerate.utils import reduce

        # Whoever drops a tensor last needs Python's lock. The last one is kept for ``leave``, which has the lock while
        # it waits for Gloo's thread, to which the tensor would else be left.
        self._last = reduce(tensor.to(self.device), "sum")
        return self._last
