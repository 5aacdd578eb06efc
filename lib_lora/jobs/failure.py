"""What a person is told of work that has failed, and how its memory is got back."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterator

from lib_lora.base.errors import StudioError
from lib_lora.base.packages import how_to_get

_LESS = "a smaller batch, a lower resolution, gradient_checkpointing, or network_train_unet_only"


def as_studio_error(error: BaseException) -> StudioError:
    """``error`` as one that a page can show: a full memory as advice, what nobody foresaw by its type and text."""
    if isinstance(error, StudioError):
        return error
    text = (str(error) or type(error).__name__).strip().splitlines()[0]
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        how = how_to_get(module)
        allowed = how and f"restart the WebUI with a connection, or {how}"
        return StudioError(f"the Python package {module} is not installed", allowed=allowed)
    if is_out_of_memory(error):
        return StudioError(f"memory is full ({text})", field="train_batch_size", allowed=_LESS)
    return StudioError(f"{type(error).__name__}: {text}")


def is_out_of_memory(error: BaseException) -> bool:
    """By names: torch need not be there to ask. Its CPU allocator and CUDA's libraries raise plain RuntimeErrors."""
    names = {kind.__name__ for kind in type(error).__mro__}
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def free_memory_of(error: BaseException) -> None:
    """Let go of what the failed functions' variables still hold: tensors, in the main, which the host needs now."""
    for each in _chain(error):
        traceback.clear_frames(each.__traceback__)
    free_memory()


def free_memory() -> None:
    """Give back to the system and to the card what nobody uses any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
