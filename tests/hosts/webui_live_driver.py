"""Jobs on the model that a real A1111 WebUI has loaded, and what they leave behind; run by its own interpreter.

    python webui_live_driver.py WEBUI_FOLDER CHECKPOINT TASK.json OUT.json DATA_FOLDER

TASK.json: {"project": the repository's folder, "scenes": [names of functions below], "train": options of a TrainConfig,
"lora": name of a file in DATA_FOLDER/Lora, "other": another checkpoint, "vae": a VAE, "arguments": of the WebUI's
command line, "environment": variables}. OUT.json: what each scene gave, by its name.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from webui_driver import picture, start

CASE = {
    "prompt": "zorb, red dog",
    "seed": 3,
    "steps": 4,
    "sampler_name": "Euler a",
    "scheduler": "Automatic",
    "cfg_scale": 3.0,
    "width": 64,
    "height": 64,
}


def main(webui: str, checkpoint: str, task: str, out: str, data: str) -> None:
    task, out = json.loads(Path(task).read_text(encoding="utf-8")), Path(out).resolve()
    os.environ.update(task["environment"])
    start(Path(webui).resolve(), Path(checkpoint).resolve(), Path(data).resolve(), *task["arguments"])
    sys.path.insert(0, task["project"])
    scenes = Scenes(task)
    result = {}
    for name in task["scenes"]:
        result[name] = getattr(scenes, name)()
        out.write_text(json.dumps(result), encoding="utf-8")


class Scenes:
    """Each method is a scene; what it returns is judged by the tests."""

    def __init__(self, task: dict) -> None:
        from lib_lora.hosts.webui.host import WebuiHost

        self.task = task
        self.host = WebuiHost()
        self.plain, self.traces = pixels(CASE), traces()
        self.with_lora = pixels({**CASE, "prompt": f"{CASE['prompt']} <lora:{task['lora']}:1>"})
        self.fresh = None

    def left(self) -> dict:
        """Whether the WebUI is as it was at first."""
        import numpy as np

        after = traces()
        same = {name: value == after[name] for name, value in self.traces.items()}
        again = pixels({**CASE, "prompt": f"{CASE['prompt']} <lora:{self.task['lora']}:1>"})
        return {
            **same,
            "picture": np.array_equal(self.plain, pixels(CASE)),
            # After loading another checkpoint and the first again, the WebUI by itself rounds it another way.
            "lora picture": difference(self.with_lora, again) <= 1,
        }

    def config(self, name: str, **options):
        from lib_lora.base.options import from_mapping
        from lib_lora.training.config import TrainConfig

        return from_mapping(TrainConfig, {**self.task["train"], "output_name": name, **options})

    def job(
        self,
        name: str,
        *,
        on_step: Callable[[Job, int], None] = lambda job, step: None,
        in_pause: Callable[[Job], None] = lambda job: None,
        **options,
    ) -> Job:
        """A training job on the live model, driven as the queue does."""
        return Job(self.host, self.config(name, **options), on_step, in_pause)

    # Whole jobs

    def a_job(self) -> dict:
        """The first, on a fresh start but for a LoRA that was used and put away."""
        pixels(CASE)
        job = self.job("fresh").run()
        self.fresh = job.lora()
        return {
            "losses": job.losses,
            "parameters": job.parameters,
            "shared": job.shared,
            "half": job.half,
            "prediction": job.prediction,
            "notes": job.notes,
            "previewer": job.has_previewer,
            "left": self.left(),
        }

    def after_a_lora(self) -> dict:
        """The last prompt's LoRA is still in the weights when it begins."""
        import numpy as np

        changed = pixels({**CASE, "prompt": f"{CASE['prompt']} <lora:{self.task['lora']}:1>"})
        merged = traces()["weights"] != self.traces["weights"]
        job = self.job("after_a_lora").run()
        return {
            "lora acts": not np.array_equal(changed, self.plain),
            "merged": merged,
            "same": job.lora() == self.fresh,
            "left": self.left(),
        }

    def stopped(self) -> dict:
        job = self.job("stopped", on_step=lambda job, step: step == 3 and job.control.stop()).run()
        return {"steps": len(job.losses), "written": [path.name for path in job.written], "left": self.left()}

    def aborted(self) -> dict:
        job = self.job("aborted", on_step=lambda job, step: step == 3 and job.control.abort()).run()
        return {"steps": len(job.losses), "written": [path.name for path in job.written], "left": self.left()}

    def failed(self) -> dict:
        """An exception inside a step, and memory that is not there: on the CPU, and as a card says it."""
        import torch

        def fail(*_):
            raise RuntimeError("thrown inside a step")

        def take_too_much(*_):
            torch.empty(1 << 60, dtype=torch.uint8)

        def say_the_card_is_full(*_):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        results = {}
        for index, fault in enumerate((fail, take_too_much, say_the_card_is_full)):

            def break_it(job, step, fault=fault):
                if step == 2:
                    job.lease.model.unet.mid_block.register_forward_hook(fault)

            job = self.job(f"failed{index}", on_step=break_it)
            try:
                job.run()
                error = None
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
            results[fault.__name__] = {"error": error, "steps": len(job.losses), "left": self.left()}
        return results

    def paused(self) -> dict:
        """Somebody generates in a pause, with a LoRA too, and the pictures are the usual ones."""
        import numpy as np

        seen = {}

        def ask_for_a_picture(job, step):
            if step == 3:
                job.other = threading.Thread(target=use_the_model)
                job.other.start()
                while not job.lease.somebody_waits():
                    job.other.join(0.01)
                job.control.pause()

        def use_the_model():
            from modules.call_queue import queue_lock

            with queue_lock:
                seen["picture"] = np.array_equal(self.plain, pixels(CASE))
                lora = {**CASE, "prompt": f"{CASE['prompt']} <lora:{self.task['lora']}:1>"}
                seen["lora picture"] = np.array_equal(self.with_lora, pixels(lora))

        def wait_for_it(job):
            seen["held"] = [parameter.numel() for parameter in job.lease.model.unet.parameters()][:3]
            job.other.join()

        job = self.job("paused", on_step=ask_for_a_picture, in_pause=wait_for_it).run()
        return {**seen, "same": job.lora() == self.fresh, "steps": len(job.losses), "left": self.left()}

    def switched_and_put_back(self) -> dict:
        def switch(job):
            self.host.switch_to(Path(self.task["other"]))
            pixels(CASE)

        job = self.job("put_back", on_step=pause_at_3, in_pause=switch).run()
        return {"same": job.lora() == self.fresh, "loaded": self.loaded(), "left": self.left()}

    def switched_and_left(self) -> dict:
        """The job stays paused while another checkpoint is loaded, and says so."""
        from modules.call_queue import queue_lock

        seen = {}

        def switch(job):
            first = Path(job.lease.model.path)
            self.host.switch_to(Path(self.task["other"]))
            try:
                job.lease.take_again(put_back=False)
            except Exception as error:
                seen["error"] = str(error)
            seen["free"] = queue_lock.acquire(blocking=False)
            queue_lock.release()
            self.host.switch_to(first)

        job = self.job("left", on_step=pause_at_3, in_pause=switch).run()
        return {**seen, "same": job.lora() == self.fresh, "left": self.left()}

    def vae_switched(self) -> dict:
        """Another VAE in a pause; and weights that somebody has changed in place."""
        import torch
        from modules import sd_vae, shared

        def change_vae(job):
            sd_vae.reload_vae_weights(vae_file=self.task["vae"])
            job.refusals.append(job.refusal())
            assert sd_vae.loaded_vae_file == self.task["vae"]

        def change_weights(job):
            with torch.no_grad():
                shared.sd_model.first_stage_model.encoder.conv_out.weight.mul_(1.5)
            job.refusals.append(job.refusal())

        jobs = {
            name: self.job(name, on_step=pause_at_3, in_pause=change).run()
            for name, change in (("vae", change_vae), ("weights", change_weights))
        }
        return {
            name: {"error": job.refusals[0], "same": job.lora() == self.fresh, "vae": sd_vae.loaded_vae_file}
            for name, job in jobs.items()
        } | {"left": self.left()}

    def loaded(self) -> str:
        from modules import shared

        return Path(shared.sd_model.sd_checkpoint_info.filename).name

    # Previews

    def previews(self) -> dict:
        """The same picture with the adapters hooked in, from the saved file, and by our own sampler."""
        from modules import shared

        shared.opts.data["persistent_cond_cache"] = True
        pixels(CASE)  # its conditioning is kept, and must not be the adapters' afterwards
        job = self.job("previews", on_step=lambda job, step: step == 3 and job.control.save_lora(), **self._samples(4))
        job.spy = Spy(self)
        job.run()
        shared.opts.data["persistent_cond_cache"] = False
        (saved,) = [path.stem for path in job.written if "-step" in path.stem]
        left, live, seen = self.left(), job.spy.picture, job.spy.seen
        seen["written"] = difference(read_picture(job.samples[0]), live)
        seen["file"] = difference(pixels({**CASE, "prompt": f"{CASE['prompt']} <lora:{saved}:1>"}), live)
        seen["acts"] = difference(live, self.plain)
        return {**seen, "left": left}

    def _samples(self, every: int) -> dict:
        prompts = Path(self.task["train"]["train_data_dir"]).parent / "prompts.txt"
        prompts.write_text(
            f"{CASE['prompt']} --d {CASE['seed']} --s {CASE['steps']} --l {CASE['cfg_scale']} --w 64 --h 64", "utf-8"
        )
        return {
            "sample_prompts": str(prompts),
            "sample_every_n_steps": every - 1,
            "max_train_steps": every,
            "learning_rate": 3e-2,
        }

    def a_preview_is_interrupted(self) -> dict:
        """In the WebUI's own display: how far the job is, and its Interrupt, also within a preview."""
        from modules import script_callbacks, shared

        def interrupt(_) -> None:
            shared.state.interrupt()

        seen = {}
        with self.host.task("a job") as task:
            task.step(2, 8, "a job: step 2")
            seen["shown"] = {**shared.state.dict(), "textinfo": shared.state.textinfo}
            job = self.job("interrupted", on_step=lambda job, step: None, **self._samples(4))
            script_callbacks.on_cfg_denoiser(interrupt)
            try:
                job.run()
            finally:
                script_callbacks.remove_callbacks_for_function(interrupt)
            seen["pictures"] = len(job.samples)
            seen["steps"] = len(job.losses)
            seen["still shown"] = {**shared.state.dict(), "textinfo": shared.state.textinfo}
            seen["interrupted"] = [task.interrupted(), task.interrupted()]
            seen["others interrupt"] = self._interrupted_in_between(task)
        seen["ended"] = shared.state.dict()
        return seen

    def _interrupted_in_between(self, task) -> bool:
        """A generation by somebody else that was interrupted is not the job's business."""
        from modules import shared

        pixels(CASE)
        shared.state.interrupt()
        return task.interrupted()

    # LoRA files

    def files(self) -> dict:
        """A file is overwritten, and checked, by the WebUI's own loader."""
        import networks
        import numpy as np
        from modules import shared

        folder = self.host.lora_dir()
        path, prompt = folder / "changing.safetensors", f"{CASE['prompt']} <lora:changing:1>"
        path.write_bytes((folder / f"{self.task['lora']}.safetensors").read_bytes())
        self.host.lora_written(path)
        seen = {"listed": "changing" in networks.available_networks}
        first = pixels({**CASE, "prompt": prompt})
        path.write_bytes((folder / "fresh.safetensors").read_bytes())
        self.host.lora_written(path)
        trained = {**CASE, "prompt": f"{CASE['prompt']} <lora:fresh:1>"}
        seen["new weights"] = np.array_equal(pixels({**CASE, "prompt": prompt}), pixels(trained))
        seen["changed"] = not np.array_equal(first, pixels(trained))
        pixels(CASE)
        forget_backups()
        check = self.host.check_lora(folder / f"{self.task['lora']}.safetensors")
        seen["check"] = [check.keys, check.matched, list(check.unmatched), check.change]
        seen["backups"] = sum(getattr(m, "network_weights_backup", None) is not None for m in shared.sd_model.modules())
        odd = self.host.check_lora(add_key(folder / f"{self.task['lora']}.safetensors", folder / "odd.safetensors"))
        seen["odd"] = [odd.keys, odd.matched, list(odd.unmatched)]
        (folder / "broken.safetensors").write_bytes(b"nothing")
        seen["broken"] = refusal(lambda: self.host.check_lora(folder / "broken.safetensors"))
        return {**seen, "left": self.left()}

    # The host

    def host_says(self) -> dict:
        from modules import shared

        shared.opts.data["CLIP_stop_at_last_layers"] = 2
        shared.opts.data["lora_studio_dataset_dirs"] = "/one\n /two \n"
        defaults, folders = self.host.train_defaults(), self.host.folders()
        shared.opts.data.pop("lora_studio_dataset_dirs")
        shared.opts.data["CLIP_stop_at_last_layers"] = 1
        usual = self.host.folders()
        return {
            "defaults": dict(defaults),
            "datasets": [str(path) for path in folders.datasets],
            "usual datasets": [str(path) for path in usual.datasets],
            "models": [str(path) for path in usual.models],
            "outputs": [str(path) for path in usual.outputs],
            "loaded": [model.path.name for model in self.host.checkpoints() if model.loaded],
            "known": len(self.host.checkpoints()),
            "samplers": self.host.samplers(),
            "version": self.host.version,
            "lends": self.host.lends(),
            "exposed": self._exposed(),
            "unknown": refusal(lambda: self.host.switch_to(Path("/nowhere/x.safetensors"))),
            "other device": refusal(lambda: self.host.lend(self.config("x", device="cuda"))),
            "other vae": refusal(lambda: self.host.lend(self.config("x", vae=self.task["vae"]))),
        }

    def _exposed(self) -> dict:
        from modules import shared

        options, said = shared.cmd_opts, {"usual": self.host.exposed()}
        for name, value in (
            ("listen", True),
            ("share", True),
            ("ngrok", "token"),
            ("server_name", "0.0.0.0"),
            ("server_name", "127.0.0.1"),
            ("server_name", "localhost"),
            ("nowebui", True),
        ):
            before = getattr(options, name)
            setattr(options, name, value)
            said[f"{name} {value}"] = self.host.exposed()
            setattr(options, name, before)
        return said

    def unloaded(self) -> dict:
        """The model is away, and whoever wants it waits."""
        made = {}
        thread = threading.Thread(target=lambda: made.update(picture=pixels_when_free()))
        with self.host.model_unloaded() as waiting:
            seen = {"nobody waits": not waiting.somebody_waits()}
            thread.start()
            while not waiting.somebody_waits():
                thread.join(0.01)
            seen["waits"] = not made
        thread.join()
        return {**seen, "same": difference(made["picture"], self.plain) == 0, "left": self.left()}


class Spy:
    """The lease's previewer, and what it changes."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes, self.picture, self.seen = scenes, None, {}

    def generate(self, request, network):
        import numpy as np
        from modules import shared
        from modules.processing import StableDiffusionProcessing

        from lib_lora.training.samples import OwnPreviewer

        history = Path(shared.cmd_opts.data_dir) / "params.txt"
        before = traces(), dict(shared.opts.data), history.read_text(), StableDiffusionProcessing.cached_c[0]
        picture = self.previewer.generate(request, network)
        self.picture = np.asarray(picture)
        self.seen["untouched"] = traces() == before[0]
        self.seen["settings"] = shared.opts.data == before[1]
        self.seen["history"] = history.read_text() == before[2]
        self.seen["cache"] = StableDiffusionProcessing.cached_c[0] is before[3]
        own = OwnPreviewer(self.model, self.control).generate(request, network)
        self.seen["ours"] = difference(np.asarray(own), self.picture)
        unknown = type(request)(request.prompt, sampler="Nobody's")
        self.seen["unknown sampler"] = refusal(lambda: self.previewer.generate(unknown, network))
        tagged = type(request)(f"{request.prompt} <lora:x:1>")
        self.seen["another lora"] = refusal(lambda: self.previewer.generate(tagged, network))
        return picture


class Job:
    """A job on the live model: lease, run, pauses."""

    def __init__(self, host, config, on_step, in_pause) -> None:
        from lib_lora.base.signals import Control

        self.host, self.config, self.on_step, self.in_pause = host, config, on_step, in_pause
        self.control = Control()
        self.losses: list[float] = []
        self.written: list[Path] = []
        self.samples: list[Path] = []
        self.refusals: list[str] = []
        self.spy = self.other = self.lease = None

    def run(self) -> Job:
        from lib_lora.base.events import Paused, SampleReady, Saved, StepDone
        from lib_lora.training.run import Run

        self.lease = lease = self.host.lend(self.config)
        try:
            self.notes, previewer = list(lease.notes), lease.previewer
            self.has_previewer = previewer is not None
            model = lease.model
            self.prediction = [model.prediction_type, model.prediction_source, model.zero_terminal_snr]
            self._count_shared()
            if self.spy:
                self.spy.previewer, self.spy.model, self.spy.control = previewer, lease.model, self.control
                previewer = self.spy
            run = Run(self.config, self.control, model=lease.model, previewer=previewer)
            for event in run.events():
                if isinstance(event, StepDone):
                    self.losses.append(event.loss)
                    self.on_step(self, event.step)
                elif isinstance(event, Saved):
                    self.written.append(event.path)
                    self.host.lora_written(event.path)
                elif isinstance(event, SampleReady):
                    self.samples.append(event.path)
                elif isinstance(event, Paused):
                    lease.give_back()
                    self.in_pause(self)
                    lease.take_again(put_back=True)
                    self.control.resume()
        finally:
            lease.give_back()
        return self

    def _count_shared(self) -> None:
        from modules import shared

        live = {tensor.untyped_storage().data_ptr() for tensor in shared.sd_model.state_dict().values()}
        own = [parameter for module in self.lease.model.modules() for parameter in module.parameters()]
        self.parameters = len(own)
        self.shared = sum(parameter.untyped_storage().data_ptr() in live for parameter in own)
        copies = [getattr(m, f"fp16_{name}", None) for m in shared.sd_model.modules() for name in ("weight", "bias")]
        half = {tensor.untyped_storage().data_ptr() for tensor in copies if tensor is not None}
        self.half = sum(parameter.untyped_storage().data_ptr() in half for parameter in own)

    def lora(self) -> str:
        """A hash of the result's tensors."""
        from lib_lora.files.lora_file import LoraFile

        (final,) = [path for path in self.written if path.stem == self.config.output_name]
        return LoraFile.read(final).with_hashes().metadata["sshs_model_hash"]

    def refusal(self) -> str | None:
        """What the lease says where nothing is put back."""
        return refusal(lambda: self.lease.take_again(put_back=False))


def refusal(action: Callable[[], object]) -> str | None:
    from lib_lora.base.errors import StudioError

    try:
        action()
    except StudioError as error:
        return str(error)
    return None


def pause_at_3(job: Job, step: int) -> None:
    if step == 3:
        job.control.pause()


def pixels(case: dict):
    import numpy as np

    return np.asarray(picture(case).convert("RGB"))


def pixels_when_free():
    from modules.call_queue import queue_lock

    with queue_lock:
        return pixels(CASE)


def read_picture(path: Path):
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def difference(one, other) -> int:
    """The largest difference of two pictures, in grey levels."""
    return int(abs(one.astype(int) - other.astype(int)).max())


def traces() -> dict:
    """Everything of the WebUI's model that a job might leave changed."""
    import hashlib

    import torch
    from modules import shared

    digest = hashlib.blake2b()
    for name, tensor in shared.sd_model.state_dict().items():
        bits = tensor.detach().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + bits.numpy().tobytes())
    modules = list(shared.sd_model.modules())
    return {
        "weights": digest.hexdigest(),
        "flags": [parameter.requires_grad for parameter in shared.sd_model.parameters()],
        "modes": [module.training for module in modules],
        "devices": [str(parameter.device) for parameter in shared.sd_model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules],
        "methods": [sorted(set(vars(module)) & {"forward", "encode", "decode"}) for module in modules],
    }


def forget_backups() -> None:
    """The WebUI's copies of its weights, made for LoRAs: a check leaves none of its own."""
    import networks
    from modules import shared

    networks.load_networks([])
    for module in shared.sd_model.modules():
        if getattr(module, "network_weights_backup", None) is not None:
            networks.network_reset_cached_weight(module)


def add_key(source: Path, target: Path) -> Path:
    """A LoRA with a module that no model has."""
    import torch
    from safetensors.torch import load_file, save_file

    odd = {"lora_unet_nowhere.lora_up.weight": torch.ones(2, 2), "lora_unet_nowhere.lora_down.weight": torch.ones(2, 2)}
    save_file({**load_file(source), **odd}, str(target))
    return target


if __name__ == "__main__":
    main(*sys.argv[1:])
