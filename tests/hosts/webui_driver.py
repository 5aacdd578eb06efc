"""Makes pictures with a real A1111 WebUI; run by its own interpreter, apart from the tests' process.

    python webui_driver.py WEBUI_FOLDER CHECKPOINT CASES.json OUT.npz DATA_FOLDER

CASES.json: a list of {prompt, negative_prompt, seed, steps, sampler_name, cfg_scale, width, height, options}.
OUT.npz: the pictures, uint8 [h, w, 3], as "0", "1", ...
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(webui: str, checkpoint: str, cases: str, out: str, data: str) -> None:
    cases, out = Path(cases).resolve(), Path(out).resolve()
    start(Path(webui).resolve(), Path(checkpoint).resolve(), Path(data).resolve())
    import numpy as np

    pictures = [np.asarray(picture(case).convert("RGB")) for case in json.loads(cases.read_text(encoding="utf-8"))]
    np.savez(out, **{str(index): pixels for index, pixels in enumerate(pictures)})


def start(webui: Path, checkpoint: Path, data: Path, *arguments: str) -> None:
    """Bring up the WebUI's modules on the CPU without its server, and load the checkpoint.

    Args:
        arguments: further ones of the WebUI's command line.
    """
    # COVERAGE_RUN keeps the WebUI from installing a SIGINT handler that ends the process on the spot.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", COVERAGE_RUN="1")
    (data / "Lora").mkdir(parents=True, exist_ok=True)
    sys.argv = [
        "launch.py",
        "--skip-prepare-environment",
        "--skip-install",
        "--skip-torch-cuda-test",
        "--skip-version-check",
        "--skip-python-version-check",
        "--use-cpu",
        "all",
        "--no-half",
        "--no-download-sd-model",
        "--do-not-download-clip",
        "--disable-console-progressbars",
        "--skip-load-model-at-start",
        "--ckpt",
        str(checkpoint),
        "--data-dir",
        str(data),
        "--lora-dir",
        str(data / "Lora"),
        *arguments,
    ]
    os.chdir(webui)
    sys.path.insert(0, str(webui))
    from modules import initialize

    initialize.imports()
    _teach_open_clip(checkpoint)
    initialize.initialize()
    from modules import script_callbacks, sd_models, sd_unet, shared

    script_callbacks.before_ui_callback()
    for name in ("samples_save", "grid_save", "live_previews_enable"):
        shared.opts.set(name, False, run_callbacks=False)
    info = sd_models.CheckpointInfo(str(checkpoint))
    info.register()
    shared.opts.data["sd_model_checkpoint"] = info.title
    sd_models.load_model(info)
    sd_unet.apply_unet()


def _teach_open_clip(checkpoint: Path) -> None:
    """Make the text encoder of a tiny checkpoint known to open_clip under the name that its yaml gives."""
    config = checkpoint.with_suffix(".open_clip.json")
    if config.is_file():
        import open_clip
        import yaml

        params = yaml.safe_load(checkpoint.with_suffix(".yaml").read_text(encoding="utf-8"))["model"]["params"]
        embedders = params.get("conditioner_config", {}).get("params", {}).get("emb_models", [])
        encoders = [params["cond_stage_config"]] if "cond_stage_config" in params else embedders
        (name,) = (entry["params"]["arch"] for entry in encoders if "arch" in entry["params"])
        open_clip.factory._MODEL_CONFIGS[name] = json.loads(config.read_text(encoding="utf-8"))


def picture(case: dict):
    """The PIL picture of one case."""
    from modules import processing, shared

    case = dict(case)
    # Each named every time: the WebUI does not take back the override of a setting that was at its default.
    settings = {
        "randn_source": "CPU",
        "CLIP_stop_at_last_layers": 1,
        "sd_noise_schedule": "Default",
        "sdxl_clip_l_skip": False,
        **case.pop("options", {}),
    }
    request = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, do_not_save_samples=True, do_not_save_grid=True, override_settings=settings, **case
    )
    shared.state.begin(job="txt2img")
    try:
        return processing.process_images(request).images[0]
    finally:
        request.close()
        shared.state.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
