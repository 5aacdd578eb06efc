"""What a UNet predicts, from everything that may say so except the UNet itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lib_lora.base.errors import StudioError

EPSILON, V_PREDICTION = "epsilon", "v_prediction"
ASSUMED = "assumed"

# LDM's yaml says eps and v; modelspec says epsilon and v; diffusers says epsilon and v_prediction.
_SPELLINGS = {
    "eps": EPSILON,
    "epsilon": EPSILON,
    "v": V_PREDICTION,
    "v_prediction": V_PREDICTION,
    "v-prediction": V_PREDICTION,
}
# sd-scripts, library/model_util.py, get_model_version_str_for_sd1_sd2; its name for SDXL does not tell.
_BASE_VERSIONS = {"sd_v1": "eps", "sd_v2": "eps", "sd_v1_v": "v", "sd_v2_v": "v"}
_MARKER, _ZERO_SNR_MARKER = "v_pred", "ztsnr"


@dataclass(frozen=True)
class Prediction:
    """What is known.

    Attributes:
        prediction_type: "epsilon" or "v_prediction".
        zero_terminal_snr: the noise schedule is rescaled so that the last timestep is noise alone (arXiv 2305.08891).
        source: who said so, in words for a person; "assumed" when nobody did.
    """

    prediction_type: str = EPSILON
    zero_terminal_snr: bool = False
    source: str = ASSUMED

    @property
    def assumed(self) -> bool:
        return self.source == ASSUMED


def find_prediction(
    keys: Collection[str],
    metadata: Mapping[str, str],
    *,
    parameterization: str | None = None,
    scheduler: Mapping[str, Any] | None = None,
    file: object | None = None,
) -> Prediction:
    """What a checkpoint predicts. The first that speaks is believed, in the order of the arguments after ``metadata``,
    then marker keys, then metadata; a zero-terminal schedule is taken from whoever names one.

    Args:
        keys: the checkpoint's keys. Merges and trainers mark a file with an empty tensor ``v_pred``, and ``ztsnr``.
        metadata: the file's, of which ``modelspec.prediction_type`` and the ``ss_`` names of sd-scripts count.
        parameterization: what the yaml beside the file says; None when there is none.
        scheduler: ``scheduler_config.json`` of a diffusers folder.
        file: named in errors.

    Raises:
        StudioError: one of them says something that is neither epsilon nor v.
    """
    scheduler = scheduler or {}
    claims = (
        (parameterization, "the yaml beside the checkpoint"),
        (scheduler.get("prediction_type"), "the folder's scheduler_config.json"),
        (V_PREDICTION if _MARKER in keys else None, f"the marker key {_MARKER}"),
        (metadata.get("modelspec.prediction_type"), "the metadata's modelspec.prediction_type"),
        (_BASE_VERSIONS.get(metadata.get("ss_base_model_version", "")), "the metadata's ss_base_model_version"),
    )
    zero_terminal_snr = (
        bool(scheduler.get("rescale_betas_zero_snr"))
        or _ZERO_SNR_MARKER in keys
        or metadata.get("ss_zero_terminal_snr") == "True"
    )
    for said, source in claims:
        if said is not None:
            return Prediction(_parse(said, source, file), zero_terminal_snr, source)
    return Prediction(zero_terminal_snr=zero_terminal_snr)


def _parse(said: str, source: str, file: object | None) -> str:
    name = _SPELLINGS.get(str(said).strip().lower())
    if name is None:
        raise StudioError(
            f"{source} names a prediction type that cannot be trained",
            field="prediction_type",
            file=file,
            came=said,
            allowed=(EPSILON, V_PREDICTION),
        )
    return name
