"""The Python packages that LoRA Studio wants beside those of a host, in versions that fit the host.

``install.py`` runs this at every start of the WebUI: standard library only, and nothing slow.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

# What only one feature wants. Everything else of requirements.txt is needed by all.
OPTIONAL = {
    "lycoris_lora": "the LyCORIS network types",
    "prodigyopt": "the optimizer Prodigy",
    "dadaptation": "the optimizers of D-Adaptation",
    "lion-pytorch": "the optimizer Lion",
    "came-pytorch": "the optimizer CAME",
    "schedulefree": "the schedule-free optimizers",
    "tensorboard": "the charts for TensorBoard",
    "ImageHash": "the health report of datasets",
    "onnxruntime": "the taggers",
}
# Other builds of a package, under names of their own: one beside another breaks both.
_BUILDS = {
    "onnxruntime": [
        f"onnxruntime-{build}"
        for build in ("gpu", "directml", "openvino", "rocm", "migraphx", "silicon", "qnn", "cann", "training")
    ]
}
# By what they are imported as: whatever else is missing, nobody is told to install what happens to have its name.
_PACKAGES = {
    "PIL": "Pillow",
    "came_pytorch": "came-pytorch",
    "imagehash": "ImageHash",
    "lion_pytorch": "lion-pytorch",
    "lycoris": "lycoris_lora",
    "yaml": "PyYAML",
    **{
        name: name
        for name in (
            *("accelerate", "bitsandbytes", "dadaptation", "diffusers", "huggingface_hub", "numpy", "onnxruntime"),
            *("prodigyopt", "psutil", "safetensors", "schedulefree", "tensorboard", "tokenizers", "tomli", "tqdm"),
            "transformers",
        )
    },
}
HOSTS_OWN = ("torch", "gradio")  # a WebUI without them is none, and which ones is its own choice


@dataclass(frozen=True)
class Package:
    """One package that a host should have.

    Attributes:
        requirement: what to ask pip for.
        least: the oldest version that does.
        found: the version that is there, None without one.
    """

    name: str
    requirement: str
    least: str
    found: str | None = None

    @property
    def feature(self) -> str | None:
        """The feature that is lost without it; None where nothing works."""
        return OPTIONAL.get(self.name)

    @property
    def outdated(self) -> bool:
        return self.found is not None and release(self.found) < release(self.least)


def wanted_packages(
    requirements: Iterable[str], python: tuple[int, int], found: Mapping[str, str | None]
) -> list[Package]:
    """What LoRA Studio wants of a host.

    Args:
        requirements: the lines of requirements.txt ("name>=1.2; marker").
        python: (major, minor).
        found: the versions that are there, by the names in ``requirements``.
    """
    packages = []
    for line in requirements:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        name, _, least = requirement.partition(">=")
        limit = re.search(r'python_version < "(\d+)\.(\d+)"', marker)
        if name not in HOSTS_OWN and not (limit and python >= (int(limit[1]), int(limit[2]))):
            packages.append(Package(name, fitting_requirement(name, least, found), least, found.get(name)))
    return packages


def fitting_requirement(name: str, least: str, found: Mapping[str, str | None]) -> str:
    """What to ask pip for, so that it takes no version that does not run with the host's torch and transformers.

    Constraints do not do it: diffusers names in its package neither, and its releases after 0.31 do not import whole
    with old ones; lycoris_lora 4 wants ``torch.library.custom_op`` (torch 2.4), and bitsandbytes 0.46 a newer torch
    than the WebUI's. 0.45.3 is Forge's own.
    """
    torch = release(found.get("torch") or "0")
    if name == "diffusers" and (torch < (2, 6) or release(found.get("transformers") or "0") < (4, 46)):
        return "diffusers==0.31.0"
    if name == "lycoris_lora" and torch < (2, 4):
        return "lycoris_lora==3.2.0.post2"
    if name == "bitsandbytes" and torch < (2, 4):
        return "bitsandbytes==0.45.3"
    return f"{name}>={least}" if least else name


def how_to_get(module: str) -> str | None:
    """The command that adds the package of a module to this environment; None where the package is none of ours."""
    package = _PACKAGES.get(module)
    if package is None:
        return None
    found = {name: installed_version(name) for name in ("torch", "transformers")}
    return how_to_add(fitting_requirement(package, "", found))


def release(version: str) -> tuple[int, ...]:
    """ "2.1.2+cu121" -> (2, 1, 2); enough to compare versions with each other."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def installed_version(name: str) -> str | None:
    """The version of an installed package, be it of another build; None without it."""
    for build in (name, *_BUILDS.get(name, ())):
        try:
            return metadata.version(build)
        except metadata.PackageNotFoundError:
            pass
    return None


def how_to_add(*requirements: str) -> str:
    """The command that adds packages to this environment."""
    return f'"{sys.executable}" -m pip install ' + " ".join(f'"{requirement}"' for requirement in requirements)
