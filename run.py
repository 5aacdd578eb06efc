#!/usr/bin/env python3
"""Start LoRA Studio on a machine that has Python and git: make the environment, then do what is asked.

    python run.py demo                  train the bundled example and show what came out
    python run.py ui                    the standalone app
    python run.py cli train --help      any command of LoRA Studio
    python run.py test                  the tests; --quick for at most five minutes, -- for pytest's own options
    python run.py setup                 only make the environment, with the test tools

``--env host`` takes the versions that the WebUI pins (Python 3.10), ``--python PATH`` an environment that is there
already, ``--torch TAG`` another build of torch than the one picked (cpu, cu126, cu130, rocm7.2, plain).

Standard library only: this file runs before anything is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PYTORCH_INDEX = "https://download.pytorch.org/whl/"


class SetupError(Exception):
    """Something outside LoRA Studio is in the way; the message says what and what to do."""


# ------------------------------------------------------------------------------------------ which torch


@dataclass(frozen=True)
class Cards:
    """The graphics cards of this machine.

    ``nvidia_driver`` is None without an NVIDIA driver; ``compute_capabilities`` are (major, minor), one per card,
    and empty when the driver does not tell; ``amd``: an AMD card that ROCm may drive.
    """

    names: tuple[str, ...] = ()
    nvidia_driver: str | None = None
    compute_capabilities: tuple[tuple[int, int], ...] = ()
    amd: bool = False

    @property
    def any(self) -> bool:
        return self.nvidia_driver is not None or self.amd


@dataclass(frozen=True)
class TorchChoice:
    """What to ask pip for. ``index_url``: an index beside the configured one; ``advice``: what the person should do."""

    requirement: str
    index_url: str | None
    why: str
    advice: str = ""


@dataclass(frozen=True)
class CudaBuild:
    """One CUDA build of a torch release: the cards that it has code for and the driver that it needs.

    Cards: PyTorch's RELEASE.md, "CUDA support matrix". Drivers: NVIDIA's CUDA release notes, the minimum for
    minor-version compatibility (any CUDA 12 build runs on the driver of CUDA 12.0).
    """

    tag: str
    oldest_card: tuple[int, int]
    newest_card: tuple[int, int]
    linux_driver: str
    windows_driver: str

    def covers(self, capability: tuple[int, int]) -> bool:
        return self.oldest_card <= capability <= self.newest_card

    def driver(self, system: str) -> str:
        return self.windows_driver if system == "win32" else self.linux_driver


# Per torch release, newest CUDA first; the first is what Linux gets from PyPI.
CUDA_BUILDS = {
    "2.13": (
        CudaBuild("cu130", (7, 5), (12, 1), "580.65.06", "580.0"),
        CudaBuild("cu126", (5, 0), (9, 0), "525.60.13", "528.33"),
    ),
    "2.1": (
        CudaBuild("cu121", (5, 0), (9, 0), "525.60.13", "528.33"),
        CudaBuild("cu118", (3, 7), (9, 0), "450.80.02", "452.39"),
    ),
}
ROCM_BUILDS = {"2.13": "rocm7.2", "2.1": "rocm5.6"}


def choose_torch(
    system: str,
    machine: str,
    nvidia_driver: str | None,
    compute_capabilities: Sequence[tuple[int, int]],
    amd: bool,
    python_version: tuple[int, int],
    pinned: str,
) -> TorchChoice:
    """The build of torch ``pinned`` for this machine.

    Args:
        system: ``sys.platform``: "linux", "win32", "darwin".
        machine: ``platform.machine()``: "x86_64", "AMD64", "arm64", "aarch64".
        nvidia_driver: version of NVIDIA's driver, None without one.
        compute_capabilities: (major, minor) per NVIDIA card; empty when unknown.
        amd: an AMD card that ROCm may drive is there.
        python_version: (major, minor) of the environment.
        pinned: exact version without local part, such as "2.13.0".

    Raises:
        SetupError: no wheel of this release exists for the machine.
    """
    release = ".".join(pinned.split(".")[:2])
    plain = f"torch=={pinned}"
    _check_wheel_exists(system, machine, python_version, release)
    if system == "darwin":
        return TorchChoice(plain, None, "macOS: one build, which has Apple's GPU in it")
    if machine.lower() not in ("x86_64", "amd64"):
        return TorchChoice(plain, None, f"{machine}: the configured index's build")
    if nvidia_driver is not None:
        return _choose_cuda(system, nvidia_driver, compute_capabilities, pinned, CUDA_BUILDS[release])
    if system == "win32":
        advice = "torch has no build for AMD cards on Windows; training runs on the CPU." if amd else ""
        return TorchChoice(plain, None, "no NVIDIA card: Windows's usual build, for the CPU", advice)
    if amd:
        tag = ROCM_BUILDS[release]
        return TorchChoice(f"{plain}+{tag}", PYTORCH_INDEX + tag, "AMD card on Linux: ROCm's build")
    return _cpu(pinned, "no graphics card: the build for the CPU, which saves gigabytes of CUDA")


def _check_wheel_exists(system: str, machine: str, python_version: tuple[int, int], release: str) -> None:
    low, high = {"2.13": ((3, 10), (3, 14)), "2.1": ((3, 8), (3, 11))}[release]
    if not low <= python_version <= high:
        came = "{}.{}".format(*python_version)
        raise SetupError(f"torch {release} needs Python {low[0]}.{low[1]} to {high[0]}.{high[1]}; this is {came}.")
    if system == "darwin" and machine == "x86_64" and release != "2.1":
        raise SetupError(
            f"torch {release} no longer exists for Macs with an Intel processor. "
            "Use `--env host`, whose torch 2.1.2 does (it needs Python 3.10)."
        )


def _cpu(pinned: str, why: str, advice: str = "") -> TorchChoice:
    return TorchChoice(f"torch=={pinned}+cpu", PYTORCH_INDEX + "cpu", why, advice)


def _choose_cuda(
    system: str, driver: str, capabilities: Sequence[tuple[int, int]], pinned: str, builds: Sequence[CudaBuild]
) -> TorchChoice:
    # An unknown card is an old driver's: such drivers know no card that the oldest build lacks.
    wanted = list(capabilities) or [builds[-1].oldest_card]
    covered = {build: sum(map(build.covers, wanted)) for build in builds}
    if not max(covered.values()):
        cards = ", ".join(f"{major}.{minor}" for major, minor in wanted)
        return _cpu(
            pinned,
            f"torch {pinned} has no code for a card of compute capability {cards}: the build for the CPU",
            "Training runs on the CPU. "
            + ("Use the standalone environment, whose torch is newer." if min(wanted) > builds[0].newest_card
               else "The card is older than this torch supports."),
        )
    fitting = [build for build in builds if covered[build] == max(covered.values())]
    ready = [build for build in fitting if _version(driver) >= _version(build.driver(system))]
    build = ready[0] if ready else fitting[-1]
    advice = ""
    if not ready:
        advice = f"The driver {driver} is too old for it: update NVIDIA's driver to {build.driver(system)} or newer."
    elif covered[build] < len(wanted):
        missing = ", ".join(f"{major}.{minor}" for major, minor in wanted if not build.covers((major, minor)))
        advice = f"No build covers all your cards; those of compute capability {missing} cannot be used."
    cards = ", ".join(f"{major}.{minor}" for major, minor in capabilities) or "unknown"
    why = f"NVIDIA driver {driver}, compute capability {cards}: {build.tag}"
    if system == "linux" and build is builds[0]:
        return TorchChoice(f"torch=={pinned}", None, f"{why}, Linux's usual build", advice)
    return TorchChoice(f"torch=={pinned}+{build.tag}", PYTORCH_INDEX + build.tag, why, advice)


def forced_torch(tag: str, pinned: str) -> TorchChoice:
    """The build that ``--torch`` names; "plain" is whatever the configured index gives."""
    if tag == "plain":
        return TorchChoice(f"torch=={pinned}", None, "asked for by --torch")
    return TorchChoice(f"torch=={pinned}+{tag}", PYTORCH_INDEX + tag, "asked for by --torch")


def settle_cpu(choice: TorchChoice, can_install: Callable[[TorchChoice], bool]) -> TorchChoice:
    """A CPU build from where it can be had: the configured index, PyTorch's own, else the usual build.

    Some machines carry or mirror the CPU build themselves, and some cannot reach PyTorch's index.
    """
    if not choice.requirement.endswith("+cpu"):
        return choice
    for candidate in (dataclasses.replace(choice, index_url=None), choice):
        if can_install(candidate):
            return candidate
    plain = choice.requirement.partition("+")[0]
    return TorchChoice(plain, None, "no CPU build can be reached: the usual build, which is larger", choice.advice)


def card_warning(cards: Cards, report: dict) -> str | None:
    """What to tell a person whose card torch cannot use; None when all is well.

    ``report``: version, cuda (what torch was built for, or None), hip, available, unsupported (cards that
    torch sees and has no code for), error.
    """
    if report.get("error"):
        return f"torch does not start: {report['error']}"
    if report["unsupported"]:
        names = ", ".join(report["unsupported"])
        return f"torch {report['version']} has no code for {names}: try `--torch cu126` for older cards."
    if not cards.any or report["available"]:
        return None
    name = ", ".join(cards.names) or "a graphics card"
    if report["cuda"] is None and report["hip"] is None:
        return f"{name} is there, but torch {report['version']} is a build for the CPU. Training will be very slow."
    remedy = "update the card's driver, restart, and run this again"
    if cards.nvidia_driver is not None:
        remedy = f"update NVIDIA's driver (now {cards.nvidia_driver}), restart, and run this again"
    return f"{name} is there, but torch {report['version']} does not see it: {remedy}, or try `--torch cu126`."


def _version(text: str) -> tuple[int, ...]:
    """"535.183.01" -> (535, 183, 1); letters end a part."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:4])


# ------------------------------------------------------------------------------------------ what is here


def detect_cards() -> Cards:
    """Ask NVIDIA's tool, then Linux's own files."""
    return _nvidia_cards() or _linux_cards() or Cards()


def _nvidia_cards() -> Cards | None:
    tool = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if tool is None:
        return None
    # Drivers before R510 do not know compute_cap and answer with an error.
    for fields in ("driver_version,compute_cap,name", "driver_version,name"):
        try:
            done = subprocess.run(
                [tool, f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode == 0 and (cards := parse_nvidia_smi(done.stdout)):
            return cards
    return None


def parse_nvidia_smi(text: str) -> Cards | None:
    """Lines of "driver, capability, name" or, from an old driver, "driver, name"."""
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines() if re.match(r"\s*\d+\.\d", line)]
    if not rows:
        return None
    capabilities = tuple(_version(row[1])[:2] for row in rows if re.fullmatch(r"\d+\.\d", row[1]))
    return Cards(tuple(row[-1] for row in rows), rows[0][0], capabilities)


def _linux_cards() -> Cards | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    if found := re.search(r"\s(\d{3,}\.\d+(\.\d+)?)\s", text):
        return Cards(("an NVIDIA card",), found.group(1))
    if Path("/dev/kfd").exists() and any(map(_is_amd_card, Path("/sys/class/drm").glob("card*/device"))):
        return Cards(("an AMD card",), amd=True)
    return None


def _is_amd_card(device: Path) -> bool:
    """A card of its own: graphics inside an AMD processor rarely runs under ROCm and sets little memory aside."""
    try:
        vendor = (device / "vendor").read_text().strip()
        memory_bytes = int((device / "mem_info_vram_total").read_text())
    except (OSError, ValueError):
        return False
    return vendor == "0x1002" and memory_bytes >= 3 * 2**30


def find_python(wanted: Sequence[tuple[int, int]], candidates: Iterator[list[str]]) -> list[str]:
    """The first candidate command that runs and is one of the wanted versions.

    Raises:
        SetupError: there is none, or the one that is there cannot make an environment.
    """
    without_venv = None
    for command in candidates:
        version, can_make_environment = _ask_python(command)
        if version in wanted:
            if can_make_environment:
                return command
            without_venv = without_venv or (command, version)
    if without_venv:
        command, version = without_venv
        raise SetupError(
            f"{' '.join(command)} lacks the venv module. On Debian and Ubuntu: "
            f"sudo apt install python{version[0]}.{version[1]}-venv"
        )
    names = ["{}.{}".format(*version) for version in wanted]
    raise SetupError(
        f"Python {' or '.join(names)} is needed and was not found. Windows: install it from python.org (64-bit) with "
        f"the `py` launcher. Linux: sudo apt install python{names[0]} python{names[0]}-venv, or "
        f"`pyenv install {names[0]}`. Any folder: `--python PATH` takes an environment of your own."
    )


def _ask_python(command: list[str]) -> tuple[tuple[int, int] | None, bool]:
    """(version, can make an environment); (None, False) when the command does not run."""
    code = (
        "import sys, importlib.util as u; "
        "print(*sys.version_info[:2], int(all(map(u.find_spec, ('venv', 'ensurepip')))))"
    )
    try:
        done = subprocess.run([*command, "-c", code], capture_output=True, text=True, timeout=60)
        major, minor, able = map(int, done.stdout.split())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None, False
    return (major, minor), bool(able)


def python_candidates(wanted: Sequence[tuple[int, int]]) -> Iterator[list[str]]:
    """Commands that may be a Python of the wanted versions: this one, the launcher, PATH, pyenv, uv."""
    yield [sys.executable]
    home = Path.home()
    for major, minor in wanted:
        version = f"{major}.{minor}"
        if os.name == "nt":
            yield ["py", f"-{version}"]
        yield [f"python{version}"]
        pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
        for pattern in (
            pyenv / "versions" / f"{version}.*" / "bin" / f"python{version}",
            home / ".pyenv" / "pyenv-win" / "versions" / f"{version}.*" / "python.exe",
            home / ".local" / "share" / "uv" / "python" / f"cpython-{version}.*" / "bin" / f"python{version}",
        ):
            yield from ([found] for found in sorted(glob.glob(str(pattern)), reverse=True))


# ------------------------------------------------------------------------------------------ the environment


@dataclass(frozen=True)
class Environment:
    """One of the two environments: where it lives, which Pythons can carry it, and its exact versions."""

    name: str
    folder: Path
    pythons: tuple[tuple[int, int], ...]
    constraints: Path
    requirements: Path = ROOT / "requirements.txt"
    test_requirements: Path = ROOT / "requirements-test.txt"

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def stamp(self) -> Path:
        return self.folder / "lora-studio.json"

    @property
    def torch_version(self) -> str:
        found = re.search(r"^torch==([^+\s]+)", self.constraints.read_text(encoding="utf-8"), re.MULTILINE)
        if found is None:
            raise SetupError(f"{self.constraints} pins no torch.")
        return found.group(1)


ENVIRONMENTS = {
    "standalone": Environment(
        "standalone", ROOT / ".venv", ((3, 11), (3, 12), (3, 13), (3, 14)), ROOT / "constraints" / "standalone.txt"
    ),
    "host": Environment("host", ROOT / ".venv-host", ((3, 10),), ROOT / "constraints" / "host.txt"),
}


def digest(*files: Path) -> str:
    """SHA-256 over the files' texts. Line ends do not count: git may have changed them."""
    texts = [file.read_text(encoding="utf-8") for file in files]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def read_stamp(file: Path) -> dict:
    """What was installed completely; empty when nothing was, or when the file is unreadable."""
    try:
        stamp = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(file: Path, stamp: dict) -> None:
    """Whole or not at all: an install that was killed must not look done."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(part, file)


def missing_steps(stamp: dict, torch: TorchChoice, app: str, test: str | None) -> list[str]:
    """Which of "torch", "app" and "test" must be installed, given what the stamp says was.

    ``app`` and ``test`` are digests of what they install from; ``test`` None: the test tools are not asked for.
    """
    steps = []
    if stamp.get("torch") != [torch.requirement, torch.index_url]:
        steps.append("torch")
    if stamp.get("app") != app:
        steps.append("app")
    if test is not None and stamp.get("test") != test:
        steps.append("test")
    return steps


def keep_build(stamp: dict, choice: TorchChoice, cards: Cards, pinned: str) -> TorchChoice:
    """A card that does not answer today (a driver update before the restart) keeps its build of torch."""
    came = stamp.get("torch")
    if cards.any or not came or came[0].partition("+")[0] != f"torch=={pinned}":
        return choice
    return TorchChoice(came[0], came[1], "as installed before")


def prepare(environment: Environment, *, test_tools: bool, torch_tag: str | None) -> Path:
    """Make the environment, or bring it up to date; its interpreter."""
    cards = detect_cards()
    fresh = _ask_python([str(environment.python)])[0] not in environment.pythons
    if fresh:
        _make(environment)
    stamp = read_stamp(environment.stamp)
    pinned = environment.torch_version
    if torch_tag:
        choice = forced_torch(torch_tag, pinned)
    else:
        version = _ask_python([str(environment.python)])[0]
        choice = choose_torch(
            sys.platform, platform.machine(), cards.nvidia_driver, cards.compute_capabilities, cards.amd,
            version, pinned,
        )
        choice = keep_build(stamp, choice, cards, pinned)
    app = digest(environment.requirements, environment.constraints)
    test = digest(environment.test_requirements, environment.constraints) if test_tools else None
    if missing_steps(stamp, choice, app, test):
        _install(environment, stamp, choice, cards, app, test)
    return environment.python


def _make(environment: Environment) -> None:
    folder = environment.folder
    if folder.exists():
        if not environment.stamp.exists():
            raise SetupError(f"{folder} is there, but not from here and not usable. Move it away and run this again.")
        print(f"{folder} does not work any more and is made anew", flush=True)
        shutil.rmtree(folder)
    python = find_python(environment.pythons, python_candidates(environment.pythons))
    print(f"making the {environment.name} environment in {folder}", flush=True)
    folder.mkdir()
    write_stamp(environment.stamp, {})  # first, so that an aborted creation is known as ours
    if subprocess.call([*python, "-m", "venv", str(folder)]):
        raise SetupError(f"{' '.join(python)} could not make an environment in {folder}.")


def _install(
    environment: Environment, stamp: dict, choice: TorchChoice, cards: Cards, app: str, test: str | None
) -> None:
    """Step by step, each recorded when it is done, so that an aborted install goes on where it stopped."""
    steps = missing_steps(stamp, choice, app, test)
    # The probe of settle_cpu needs a pip that knows --dry-run (22.2).
    _pip(environment, ["pip>=23.0"])
    if "torch" in steps:
        settled = settle_cpu(choice, lambda candidate: _can_install(environment, candidate))
        source = f" from {settled.index_url}" if settled.index_url else ""
        print(f"{settled.requirement}{source}: {settled.why}", flush=True)
        for card in cards.names:
            print(f"  card: {card}", flush=True)
        if settled.advice:
            print(f"  NOTE: {settled.advice}", flush=True)
        if stamp.get("torch"):
            # pip takes any build of the same version for the one asked for.
            stamp = {name: value for name, value in stamp.items() if name != "torch"}
            write_stamp(environment.stamp, stamp)
            _run([str(environment.python), "-m", "pip", "uninstall", "-q", "-y", "torch"])
        index = ["--extra-index-url", settled.index_url] if settled.index_url else []
        _pip(environment, [settled.requirement, *index, "-c", str(environment.constraints)])
        stamp = {**stamp, "torch": [choice.requirement, choice.index_url]}
        write_stamp(environment.stamp, stamp)
    for step, file, key in (("app", environment.requirements, app), ("test", environment.test_requirements, test)):
        if step in steps:
            _pip(environment, ["-r", str(file), "-c", str(environment.constraints)])
            stamp = {**stamp, step: key}
            write_stamp(environment.stamp, stamp)
    if "torch" in steps and (warning := card_warning(cards, torch_report(environment.python))):
        print(f"WARNING: {warning}", flush=True)


def _pip(environment: Environment, arguments: list[str]) -> None:
    command = [str(environment.python), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    quiet = ["-q"] if os.environ.get("CI") else []
    if code := _run([*command, *quiet]):
        raise SetupError(
            f"pip could not install {' '.join(arguments)} (exit code {code}); its own words are above. "
            "Run this again: what is already installed is kept."
        )


def _can_install(environment: Environment, choice: TorchChoice) -> bool:
    index = ["--extra-index-url", choice.index_url] if choice.index_url else []
    command = [
        str(environment.python), "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "-q",
        "--retries", "1", "--timeout", "20", *index, choice.requirement,
    ]
    return subprocess.run(command, capture_output=True).returncode == 0


def torch_report(python: Path) -> dict:
    """What the environment's torch says of itself and of the cards; see ``card_warning``."""
    code = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
arches = [a.split("_")[1].rstrip("af") for a in torch.cuda.get_arch_list() if a.startswith(("sm_", "compute_"))]
unsupported = []
for index in range(count if arches else 0):
    major, minor = torch.cuda.get_device_capability(index)
    # Code for (major, m) runs on every (major, n) with n >= m; PTX is not counted on.
    if not any(int(a) // 10 == major and int(a) % 10 <= minor for a in arches):
        unsupported.append(torch.cuda.get_device_name(index))
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip,
                  "available": bool(count), "unsupported": unsupported}))
"""
    done = subprocess.run([str(python), "-W", "ignore", "-c", code], capture_output=True, text=True)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}


def requirement_lines(file: Path) -> list[str]:
    """The lines of a requirements file without its comments."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def check_foreign(python: str, wanted: Sequence[str]) -> None:
    """Refuse somebody else's environment that lacks what we need; nothing is ever installed into it.

    Raises:
        SetupError: names what is missing or too old and says how to add it without upgrading the rest.
    """
    code = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in json.loads(sys.argv[1]):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = None
print(json.dumps([list(sys.version_info[:2]), found]))
"""
    names = {line: re.match(r"[\w.-]+", line).group() for line in wanted}
    try:
        done = subprocess.run(
            [python, "-c", code, json.dumps(list(names.values()))], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"--python {python} does not run: {error}") from None
    version, found = json.loads(done.stdout)
    if version < [3, 10]:
        raise SetupError(f"--python {python} is Python {version[0]}.{version[1]}; 3.10 or newer is needed.")
    missing = missing_requirements(wanted, found, (version[0], version[1]))
    if missing:
        raise SetupError(
            f"{python} lacks: {', '.join(missing)}\n"
            "Nothing was installed. To add them without changing what is there:\n"
            f'  "{python}" -m pip freeze > have.txt\n'
            f'  "{python}" -m pip install -c have.txt {" ".join(_quoted(line) for line in missing)}'
        )


def missing_requirements(
    wanted: Sequence[str], found: dict[str, str | None], python_version: tuple[int, int]
) -> list[str]:
    """The lines of a requirements file ("name>=1.2; marker") that the found versions do not meet."""
    missing = []
    for line in wanted:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        limit = re.search(r'python_version < "(\d+)\.(\d+)"', marker)
        if limit and python_version >= (int(limit.group(1)), int(limit.group(2))):
            continue
        name, _, least = requirement.partition(">=")
        have = found.get(name)
        if have is None or _version(have.partition("+")[0]) < _version(least):
            missing.append(requirement)
    return missing


def _quoted(requirement: str) -> str:
    return f'"{requirement}"'


# ------------------------------------------------------------------------------------------ commands


def _run(command: list[str], **kwargs) -> int:
    """Run and wait. Ctrl-C and SIGTERM go to the child, which saves and ends; we wait until it has."""
    process = subprocess.Popen(command, **kwargs)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help in (
        ("demo", "train the bundled example and show what came out"),
        ("ui", "start the standalone app"),
        ("cli", "run a command of LoRA Studio: train, plan, sample"),
        ("test", "run the tests; pytest's own options after --"),
        ("setup", "only make the environment, with the test tools"),
    ):
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.add_argument("--env", choices=tuple(ENVIRONMENTS), default="standalone",
                         help="which versions (default: standalone)")
        sub.add_argument("--python", metavar="PATH",
                         help="use this environment as it is, such as the WebUI's; nothing is installed into it")
        sub.add_argument("--torch", metavar="TAG", help="build of torch: cpu, cu126, cu130, rocm7.2, plain")
        if name == "test":
            sub.add_argument("--quick", action="store_true", help="leave out the slow tests: at most five minutes")
        if name == "cli":
            sub.add_argument("arguments", nargs=argparse.REMAINDER, help="the command and its options")
    return parser


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own options, and what goes on to the command: after ``--``, after ``cli``, and what is not ours."""
    arguments, rest = list(arguments), []
    if "cli" not in arguments[:1] and "--" in arguments:
        cut = arguments.index("--")
        arguments, rest = arguments[:cut], arguments[cut + 1 :]
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown and options.command not in ("demo", "ui", "cli"):
        hint = " (pytest's own options go after --)" if options.command == "test" else ""
        parser.error(f"unknown: {' '.join(unknown)}{hint}")
    return options, [*unknown, *getattr(options, "arguments", []), *rest]


def command_line(python: str, options: argparse.Namespace, rest: list[str]) -> list[str]:
    """What to run in the environment."""
    if options.command == "test":
        marks = ["-m", "not slow and not browser and not webui"] if options.quick else []
        return [python, "-m", "pytest", *marks, *rest]
    if options.command == "demo":
        return [python, str(ROOT / "demo" / "run_demo.py"), *rest]
    return [python, "-m", "lib_lora", *(["ui"] if options.command == "ui" else []), *rest]


def surroundings(options: argparse.Namespace) -> dict[str, str]:
    """The child's environment variables: our package is importable from any working folder."""
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))
    if options.command == "test":
        # Tests must not reach for a model hub, and short kernels on few cores lose most of their time to spinning.
        for name, value in (("HF_HUB_OFFLINE", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
            variables.setdefault(name, value)
    return variables


def main(arguments: Sequence[str]) -> int:
    if sys.version_info < (3, 10):
        print(f"error: Python 3.10 or newer is needed; this is {platform.python_version()}", file=sys.stderr)
        return 1
    options, rest = parse(arguments)
    test_tools = options.command in ("test", "setup")
    try:
        if options.python:
            python = os.path.abspath(options.python)
            check_foreign(python, requirement_lines(ROOT / "requirements.txt") + ["pytest>=8.0"] * test_tools)
        else:
            python = str(prepare(ENVIRONMENTS[options.env], test_tools=test_tools, torch_tag=options.torch))
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.command == "setup":
        print(f"ready: {python}")
        return 0
    folder = ROOT if options.command == "test" else None
    return _run(command_line(python, options, rest), env=surroundings(options), cwd=folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
