"""How the outside asks long work to stop, to pause and to keep its state."""

from __future__ import annotations


class Control:
    """Handed to long work by whoever started it; the work looks at it between its smallest parts.

    May be used from any thread and from a signal handler: a wish is one plain assignment, and no lock is taken
    that the interrupted code might hold.
    """

    def __init__(self) -> None:
        self._stopping = False
        self._pausing = False
        self._frees_model = True
        self._wants_state = False
        self._wants_lora = False
        self._aborting = False

    def stop(self) -> None:
        """Ask the work to end soon and to keep what it has. A paused run ends, too."""
        self._stopping = True

    def abort(self) -> None:
        """Ask the work to end soon and to write nothing more."""
        self._aborting = True
        self._stopping = True

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def aborting(self) -> bool:
        return self._aborting

    def pause(self, *, free_model: bool = True) -> None:
        """Ask a run to wait after its next step, its state saved, until ``resume`` or ``stop``.

        Args:
            free_model: leave the model as it was before the run, for somebody else to use; else the LoRA under
                training stays on it.
        """
        self._frees_model = free_model
        self._pausing = True

    def resume(self) -> None:
        """Let a paused run go on. Whoever used the model has put it back first."""
        self._pausing = False

    @property
    def pausing(self) -> bool:
        """Whether a pause is asked for; a stop outdoes it."""
        return self._pausing and not self._stopping

    @property
    def frees_model(self) -> bool:
        """What the last ``pause`` said of the model."""
        return self._frees_model

    def save_state(self) -> None:
        """Ask a run to write its state after the step at hand, and to go on."""
        self._wants_state = True

    def take_state_wish(self) -> bool:
        """Whether ``save_state`` was called since the last look; for the work itself."""
        wanted, self._wants_state = self._wants_state, False
        return wanted

    def save_lora(self) -> None:
        """Ask a run to write the LoRA as it is after the step at hand, and to go on."""
        self._wants_lora = True

    def take_lora_wish(self) -> bool:
        """Whether ``save_lora`` was called since the last look; for the work itself."""
        wanted, self._wants_lora = self._wants_lora, False
        return wanted
