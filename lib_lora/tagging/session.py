"""onnxruntime, wherever it comes from: onnxruntime, onnxruntime-gpu and onnxruntime-directml are one module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.packages import how_to_add

# In order of preference. TensorRT is left out: it spends minutes on every new model.
_PROVIDERS = (
    "CUDAExecutionProvider",
    "ROCMExecutionProvider",
    "MIGraphXExecutionProvider",
    "DmlExecutionProvider",
    "CoreMLExecutionProvider",
)
_CPU = "CPUExecutionProvider"
_MOST_THREADS = 8
_ERRORS_ONLY = 3


def open_session(model: Path, device: str, threads: int) -> Any:
    """An ``onnxruntime.InferenceSession``.

    Args:
        device: "auto" takes the best that this machine's onnxruntime offers, "cpu" the processor.
        threads: of the processor; 0 for half of its cores.

    Raises:
        StudioError: there is no onnxruntime, or the file is no model that it can run.
    """
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or max(1, min(_MOST_THREADS, (os.cpu_count() or 2) // 2))
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Waiting threads that spin would take the processor from whoever else computes here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [_CPU] if device == "cpu" else choose_providers(runtime.get_available_providers())
    if "CUDAExecutionProvider" in providers and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # torch's copies of CUDA's libraries, where torch is not loaded yet
    try:
        return runtime.InferenceSession(str(model), options, providers=providers)
    except Exception as fault:  # its errors have no common class
        raise StudioError(f"onnxruntime cannot load the model: {first_line(fault)}", file=model) from fault


def choose_providers(available: list[str]) -> list[str]:
    """The best execution provider of ``available``, and the processor for what it cannot do."""
    return [*[name for name in _PROVIDERS if name in available][:1], _CPU]


def fallback_note(session: Any, device: str) -> str | None:
    """What to tell a person whose card is not used although onnxruntime knows of one."""
    wanted = choose_providers(_runtime().get_available_providers())[0]
    if device == "cpu" or wanted == _CPU or wanted in session.get_providers():
        return None
    return f"onnxruntime could not start {wanted.removesuffix('ExecutionProvider')}; the tagger runs on the processor"


def first_line(fault: Exception) -> str:
    """What an error of onnxruntime's says, which may go on for pages."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as fault:
        missing = isinstance(fault, ModuleNotFoundError) and fault.name == "onnxruntime"
        raise StudioError(
            "ONNX taggers need the Python package onnxruntime"
            + (", which is not installed" if missing else f", which cannot be loaded ({fault})"),
            field="taggers",
            allowed=f"{how_to_add('onnxruntime')} (for a card onnxruntime-gpu or onnxruntime-directml instead, never "
            "two of them), then start again",
        ) from fault
    return onnxruntime
