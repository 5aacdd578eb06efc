"""Pictures of a real A1111 WebUI whose prompts know block weights; run by its own interpreter.

    python webui_blocks_driver.py WEBUI_FOLDER CHECKPOINT TASK.json OUT.npz DATA_FOLDER

TASK.json: {"project": the repository's folder, "rounds": [{"checkpoint": path, "pictures": {name: fields of a
StableDiffusionProcessingTxt2Img}, "scenes": [names of functions below], "lora": name of a file in
DATA_FOLDER/Lora}, ...]}. OUT.npz: of round N the pictures as "N name", uint8 [n, h, w, 3], and as JSON in "told" a list
of {name: {"comments", "infotexts"}, scene: what it gave}.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from webui_driver import start
from webui_tools_driver import switch_to

BASE_CASE = {
    "seed": 3,
    "steps": 2,
    "sampler_name": "Euler",
    "scheduler": "Automatic",
    "cfg_scale": 1.0,
    "width": 64,
    "height": 64,
}


def main(webui: str, checkpoint: str, task: str, out: str, data: str) -> None:
    task, out = json.loads(Path(task).read_text(encoding="utf-8")), Path(out).resolve()
    start(Path(webui).resolve(), Path(checkpoint).resolve(), Path(data).resolve())
    sys.path.insert(0, task["project"])
    import networks
    import numpy as np

    networks.list_available_networks()
    arrays, told = {}, []
    scenes = Scenes(Path(data))
    for number, turn in enumerate(task["rounds"]):
        switch_to(turn["checkpoint"])
        scenes.lora = turn["lora"]
        told.append({})
        for name, fields in turn["pictures"].items():
            pictures, told[-1][name] = make(fields)
            arrays[f"{number} {name}"] = pictures
        for name in turn["scenes"]:
            told[-1][name] = getattr(scenes, name)()
    np.savez(out, told=np.array(json.dumps(told)), **arrays)


def make(fields: dict, scripts=None) -> tuple:
    """The pictures [n, h, w, 3] of one run, and what people are told."""
    import numpy as np
    from modules import processing, shared

    request = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, do_not_save_samples=True, do_not_save_grid=True, **{**BASE_CASE, **fields}
    )
    request.scripts = scripts or runner("Another")  # without any the WebUI leaves tags out of the infotext
    shared.state.begin(job="txt2img")
    try:
        done = processing.process_images(request)
    finally:
        request.close()
        shared.state.end()
    pictures = np.stack([np.asarray(picture.convert("RGB")) for picture in done.images[done.index_of_first_image :]])
    return pictures, {"comments": done.comments, "infotexts": done.infotexts[done.index_of_first_image :]}


def same(first, second) -> bool:
    import numpy as np

    return bool(np.array_equal(first, second))


class Scenes:
    """Each method is a scene; what it returns is judged by the tests. The extension is registered before the first."""

    def __init__(self, data: Path) -> None:
        from modules import script_callbacks

        from lib_lora.hosts.webui import extension

        self.data, self.lora = data, ""
        self.methods = methods()
        extension.register(lambda: None, lambda *_: None)
        script_callbacks.before_ui_callback()

    def prompt(self, words: str = "", lora: str = "") -> dict:
        return {"prompt": f"zorb, red dog <lora:{lora or self.lora}:1{words}>"}

    def ten_in_a_row(self) -> dict:
        """Files that are loaded, tensors and memory, of pictures with two LoRAs."""
        import networks
        import torch

        loads, load = [], networks.load_network
        networks.load_network = lambda name, on_disk: loads.append(name) or load(name, on_disk)
        tensors, kib = [], []
        drawn, other = ",".join(["R"] * 26), self.lora.replace("lora", "loha")
        try:
            for number in range(10):
                tags = self.prompt(f":lbw={drawn}:start=0.3")["prompt"] + f" <lora:{other}:0.5:lbw={drawn}>"
                make({"prompt": tags, "seed": number})
                gc.collect()
                tensors.append(sum(isinstance(each, torch.Tensor) for each in gc.get_objects()))
                kib.append(resident_kib())
        finally:
            networks.load_network = load
        return {
            "loads": len(loads),
            "tensors": tensors,
            "kib": kib,
            "names": [net.name for net in networks.loaded_networks],
        }

    def edited_preset(self) -> dict:
        """A preset of one's own whose BASE, and nothing else, is changed between two pictures of one prompt."""
        pictures = {}
        for base in ("1", "0.2", "1"):
            presets = self.data / "lora_studio" / "block_presets.txt"
            presets.parent.mkdir(exist_ok=True)
            weights = ",".join([base] + 16 * ["0.5"])
            presets.write_text(f"MINE:{weights}\n", encoding="utf-8")
            by_name, by_numbers = make(self.prompt(":lbw=MINE"))[0], make(self.prompt(f":lbw={weights}"))[0]
            assert same(by_name, by_numbers), base
            pictures.setdefault(base, []).append(by_name)
        return {"other": not same(pictures["1"][0], pictures["0.2"][0]), "again": same(*pictures["1"])}

    def schedules(self) -> dict:
        """The UNet's strength at each of its evaluations."""
        more = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "hr_second_pass_steps": 2}
        cases = {
            "start=3": {"steps": 4},
            "stop=3": {"steps": 4},
            "start=0.5": {"steps": 4},
            "step=2-4": {"steps": 4},
            "step=0.2-0.6": {"steps": 5},
            "stop=2": {"steps": 3, "sampler_name": "Heun"},
            "stop=0.5": {"steps": 4, "sampler_name": "DDIM"},
            "start=2": {"steps": 3, **more, "denoising_strength": 0.99},
        }
        return {words: self.strengths({**self.prompt(f":{words}"), **fields}) for words, fields in cases.items()}

    def strengths(self, fields: dict) -> list[float]:
        import networks
        from modules import shared

        seen = []
        unet = shared.sd_model.model.diffusion_model
        handle = unet.register_forward_pre_hook(
            lambda *_: seen.append(float(networks.loaded_networks[0].unet_multiplier))
        )
        try:
            make(fields)
        finally:
            handle.remove()
        return seen

    def drawn(self) -> dict:
        """R and U: from the seed, and written down."""
        weights = ",".join(["R"] * 13 + ["U"] * 13)
        (first, told), (again, _) = (make({**self.prompt(f":lbw={weights}"), "batch_size": 2}) for _ in range(2))
        _, other = make({**self.prompt(f":lbw={weights}"), "seed": 4})
        written = told["infotexts"][1].split('Block weights: "')[1].split('"')[0]
        numbers = written.split("lbw=")[1]
        typed, _ = make({**self.prompt(f":lbw={numbers}"), "batch_size": 2})
        return {
            "again": same(first, again),
            "numbers": numbers,
            "other": other["infotexts"][0].split("lbw=")[-1].split('"')[0],
            "typed": same(first, typed),
        }

    def pasted(self) -> list[dict]:
        """Prompts as typed, and as the WebUI reads them from the picture's infotext."""
        from modules import infotext_utils, script_callbacks

        found = []
        for words in (":lbw=OUTX:x=0.5", ":0.8:lbw=R,0,1,X+0.3,1,1,1,1,1,1,1,1,1,1,1,1,U:start=0.3", ":OUTX:0.5"):
            typed = self.prompt(words)["prompt"]
            infotext = make({"prompt": typed})[1]["infotexts"][0]
            fields = infotext_utils.parse_generation_parameters(infotext)
            script_callbacks.infotext_pasted_callback(infotext, fields)
            found.append({"typed": typed, "pasted": fields["Prompt"]})
        return found

    def beside_the_other(self) -> dict:
        """With a script of the established extension's title."""
        plain, _ = make(self.prompt())
        beside, told = make(self.prompt(":lbw=NONE"), runner("LoRA Block Weight"))
        alone, _ = make(self.prompt(":lbw=NONE"))
        return {"plain": same(plain, beside), "acts": not same(plain, alone), "comments": told["comments"]}

    def weights_after(self) -> dict:
        """What is in the weights when a job borrows the model after a picture."""
        from modules import shared

        from lib_lora.hosts.webui.lease import clean_model

        clean_model()
        before = checksum(shared.sd_model)
        first, _ = make(self.prompt(":lbw=MIDD"))
        merged = checksum(shared.sd_model) != before
        clean_model()
        after = checksum(shared.sd_model) == before
        again, _ = make(self.prompt(":lbw=MIDD"))
        return {"merged": merged, "after": after, "again": same(first, again)}

    def plot(self) -> dict:
        """Each axis's cells, and the pictures of the prompts that they stand for."""
        import networks
        from modules import scripts

        xyz = next(data.module for data in scripts.scripts_data if data.path.endswith("xyz_grid.py"))
        axes = {axis.label: axis for axis in xyz.axis_options if axis.label.startswith("[LoRA]")}
        off = ",".join(["1"] * 4 + ["0"] + ["1"] * 21)
        on = ",".join(["0"] * 4 + ["1"] + ["0"] * 21)
        cells = {
            "Block preset": ("OUTD", ":lbw=OUTD"),
            "Block weights": (f"{on}; {off}", f":lbw={off}"),
            "One block on": ("IN03", f":lbw={on}"),
            "One block off": ("IN03", f":lbw={off}"),
            "UNet strength": ("0.25", ":unet=0.25:te=1"),
            "TE strength": ("0.25", ":1:te=0.25"),
        }
        found = {}
        for label, (values, words) in cells.items():
            expected, _ = make(self.prompt(words))
            found[label] = same(cell(xyz, axes[f"[LoRA] {label}"], values, self.prompt()), expected[0])
        expected, _ = make(self.prompt(":lbw=INX:x=0.25"))
        x = cell(xyz, axes["[LoRA] x of block weights"], "0.25", self.prompt(":INX:0.7"))
        found["x of block weights"] = same(x, expected[0])
        other = sorted(set(networks.available_networks) - {self.lora})[0]
        expected, _ = make(self.prompt(":lbw=OUTD", lora=other))
        found["File"] = same(cell(xyz, axes["[LoRA] File"], other, self.prompt(":lbw=OUTD")), expected[0])
        return {"same": found, "labels": sorted(axes)}

    def plot_of_nonsense(self) -> list[str]:
        """What the plot says of values that are none, before it draws anything."""
        from modules import scripts

        xyz = next(data.module for data in scripts.scripts_data if data.path.endswith("xyz_grid.py"))
        axes = {axis.label: axis for axis in xyz.axis_options}
        faults = []
        for label, value, fields in (
            ("Block preset", "OUTSIDE", self.prompt()),
            ("One block on", "IN77", self.prompt()),
            ("File", "nobody", self.prompt()),
            ("TE strength", "1", {"prompt": "no LoRA"}),
        ):
            try:
                cell(xyz, axes[f"[LoRA] {label}"], value, fields)
            except Exception as error:
                faults.append(str(error))
        return faults

    def twice_and_disabled(self) -> dict:
        """The page is made anew, and then without the extension."""
        from modules import script_callbacks, scripts

        from lib_lora.hosts.webui import block_weights

        xyz = next(data.module for data in scripts.scripts_data if data.path.endswith("xyz_grid.py"))
        replaced = methods()
        script_callbacks.before_ui_callback()
        labels = [axis.label for axis in xyz.axis_options if axis.label.startswith("[LoRA]")]
        once = methods() == replaced and len(labels) == len(set(labels)) > 0
        block_weights.uninstall()
        return {"replaced": replaced != self.methods, "once": once, "put back": methods() == self.methods}


def methods() -> list:
    """The WebUI's methods that the extension replaces."""
    import extra_networks_lora
    import network
    from modules import processing

    return [
        extra_networks_lora.ExtraNetworkLora.activate,
        network.NetworkModule.multiplier,
        network.NetworkModule.finalize_updown,
        processing.StableDiffusionProcessing.cached_params,
    ]


def runner(title: str):
    """The WebUI's scripts of a page: one that is always on, and says no more than its title."""
    from modules import scripts

    class Titled(scripts.Script):
        def title(self) -> str:
            return title

        def show(self, is_img2img: bool):
            return scripts.AlwaysVisible

    made = scripts.ScriptRunner()
    script = Titled()
    script.args_from = script.args_to = 0
    made.alwayson_scripts.append(script)
    return made


def cell(xyz, axis, values: str, fields: dict):
    """The last picture of a plot along one axis."""
    import gradio
    import numpy as np
    from modules import processing, shared

    plot = xyz.Script()
    with gradio.Blocks():
        plot.ui(False)
    place = [each.label for each in plot.current_axis_options].index(axis.label)
    request = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, do_not_save_samples=True, do_not_save_grid=True, **{**BASE_CASE, **fields}
    )
    shared.state.begin(job="txt2img")
    with patient():
        # x, y and z: kind, text, chosen; legend, sub-images, sub-grids, own seeds; vary x, y, z; margin, as text
        done = plot.run(
            request, place, values, [], 0, "", [], 0, "", [], False, True, False, True, *[False] * 3, 0, True
        )
    shared.state.end()
    return np.asarray(done.images[-1].convert("RGB"))


@contextmanager
def patient() -> Iterator[None]:
    """Total progress without a bar."""
    from modules import shared

    before = shared.total_tqdm.updateTotal
    shared.total_tqdm.updateTotal = lambda total: None
    try:
        yield
    finally:
        shared.total_tqdm.updateTotal = before


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def checksum(sd_model) -> int:
    """Of every byte of the model's weights."""
    import zlib

    total = 0
    for _, tensor in sorted(sd_model.state_dict().items()):
        total = zlib.crc32(tensor.detach().cpu().numpy().tobytes(), total)
    return total


if __name__ == "__main__":
    main(*sys.argv[1:])
