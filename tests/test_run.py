"""run.py: which torch for which machine, and when an install is done."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def run():
    spec = importlib.util.spec_from_file_location("studio_run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


WHEELS = "https://download.pytorch.org/whl/"


def linux(driver=None, *capabilities, machine="x86_64", amd=False):
    return "linux", machine, driver, capabilities, amd


def windows(driver=None, *capabilities, amd=False):
    return "win32", "AMD64", driver, capabilities, amd


# machine, what choose_torch is told, pinned torch, build ("" for the usual one of the configured index)
MACHINES = [
    ("GTX 1060, Windows, 551", windows("551.61", (6, 1)), "2.13.0", "cu126"),
    ("GTX 1060, Windows, 581", windows("581.42", (6, 1)), "2.13.0", "cu126"),
    ("RTX 3060, Windows, 581", windows("581.42", (8, 6)), "2.13.0", "cu130"),
    ("RTX 3060, Linux, 535", linux("535.183.01", (8, 6)), "2.13.0", "cu126"),
    ("RTX 3060, Linux, 580", linux("580.95.05", (8, 6)), "2.13.0", ""),
    ("RTX 5090, Linux, 580", linux("580.95.05", (12, 0)), "2.13.0", ""),
    ("RTX 5090, Windows, 581", windows("581.42", (12, 0)), "2.13.0", "cu130"),
    ("V100, Linux, 580", linux("580.95.05", (7, 0)), "2.13.0", "cu126"),
    ("H200, Linux, 580", linux("580.95.05", (9, 0)), "2.13.0", ""),
    ("unknown card, old driver", windows("528.49"), "2.13.0", "cu126"),
    ("no card, Linux", linux(), "2.13.0", "cpu"),
    ("no card, Windows", windows(), "2.13.0", ""),
    ("Mac with M2", ("darwin", "arm64", None, [], False), "2.13.0", ""),
    ("RX 7900, Linux", linux(amd=True), "2.13.0", "rocm7.2"),
    ("no card, Linux on ARM", linux(machine="aarch64"), "2.13.0", ""),
    ("host: RTX 3060, Windows", windows("551.61", (8, 6)), "2.1.2", "cu121"),
    ("host: RTX 3060, Linux", linux("535.183.01", (8, 6)), "2.1.2", ""),
    ("host: RTX 3060, Linux, 470", linux("470.256", (8, 6)), "2.1.2", "cu118"),
    ("host: RX 6800, Linux", linux(amd=True), "2.1.2", "rocm5.6"),
]


@pytest.mark.parametrize("facts, pinned, build", [row[1:] for row in MACHINES], ids=[row[0] for row in MACHINES])
def test_each_machine_gets_the_build_that_runs_on_it(run, facts, pinned, build):
    choice = run.choose_torch(*facts, (3, 11) if pinned == "2.13.0" else (3, 10), pinned)
    wanted = (f"torch=={pinned}+{build}", WHEELS + build) if build else (f"torch=={pinned}", None)
    assert (choice.requirement, choice.index_url) == wanted
    assert choice.why
    assert not choice.advice


@pytest.mark.parametrize(
    "facts, pinned, requirement, advice",
    [
        # The newest cards need CUDA 13, and that needs a new driver: the right build now, the driver is to follow.
        (linux("570.86.16", (12, 0)), "2.13.0", "torch==2.13.0", "580.65.06"),
        (windows("512.15", (8, 6)), "2.13.0", "torch==2.13.0+cu126", "528.33"),
        (linux("580.95.05", (12, 0)), "2.1.2", "torch==2.1.2+cpu", "standalone"),
        (linux("470.256", (3, 5)), "2.13.0", "torch==2.13.0+cpu", "older"),
        (linux("580.95.05", (6, 1), (12, 0)), "2.13.0", "torch==2.13.0", "6.1"),
        (windows(amd=True), "2.13.0", "torch==2.13.0", "AMD"),
    ],
)
def test_a_person_is_told_what_no_choice_can_mend(run, facts, pinned, requirement, advice):
    choice = run.choose_torch(*facts, (3, 11) if pinned == "2.13.0" else (3, 10), pinned)
    assert choice.requirement == requirement
    assert advice in choice.advice


def test_a_python_or_a_mac_without_a_wheel_is_refused(run):
    with pytest.raises(run.SetupError, match="3.10 to 3.14; this is 3.15"):
        run.choose_torch("linux", "x86_64", None, [], False, (3, 15), "2.13.0")
    with pytest.raises(run.SetupError, match="Intel"):
        run.choose_torch("darwin", "x86_64", None, [], False, (3, 11), "2.13.0")


def test_cpu_build_comes_from_the_configured_index_then_pytorchs_then_the_usual_one(run):
    choice = run.choose_torch("linux", "x86_64", None, [], False, (3, 11), "2.13.0")
    everywhere = run.settle_cpu(choice, lambda candidate: True)
    assert (everywhere.requirement, everywhere.index_url) == ("torch==2.13.0+cpu", None)
    reachable = run.settle_cpu(choice, lambda candidate: candidate.index_url is not None)
    assert (reachable.requirement, reachable.index_url) == ("torch==2.13.0+cpu", WHEELS + "cpu")
    nowhere = run.settle_cpu(choice, lambda candidate: False)
    assert (nowhere.requirement, nowhere.index_url) == ("torch==2.13.0", None)


def test_other_builds_are_not_probed(run):
    choice = run.choose_torch("win32", "AMD64", "551.61", [(8, 6)], False, (3, 11), "2.13.0")
    assert run.settle_cpu(choice, lambda candidate: pytest.fail("probed")) == choice


def test_nvidia_smi_is_read_with_and_without_capabilities(run):
    lines = "580.95.05, 12.0, NVIDIA GeForce RTX 5090\n580.95.05, 6.1, NVIDIA GeForce GTX 1060 6GB\n"
    cards = run.parse_nvidia_smi(lines)
    assert cards.nvidia_driver == "580.95.05"
    assert cards.compute_capabilities == ((12, 0), (6, 1))
    assert cards.names == ("NVIDIA GeForce RTX 5090", "NVIDIA GeForce GTX 1060 6GB")
    old = run.parse_nvidia_smi("470.256.02, Tesla K80\n")
    assert (old.nvidia_driver, old.compute_capabilities, old.names) == ("470.256.02", (), ("Tesla K80",))
    assert run.parse_nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.") is None


GOOD = {"version": "2.13.0+cu130", "cuda": "13.0", "hip": None, "available": True, "unsupported": []}


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, None),
        ({"available": False}, "update NVIDIA's driver (now 551.61)"),
        ({"available": False, "cuda": None, "version": "2.13.0+cpu"}, "a build for the CPU"),
        ({"unsupported": ["GeForce GTX 1060"]}, "no code for GeForce GTX 1060"),
        ({"error": "DLL load failed"}, "DLL load failed"),
    ],
)
def test_a_card_that_torch_cannot_use_is_reported(run, change, words):
    cards = run.Cards(("GeForce RTX 3060",), "551.61", ((8, 6),))
    warning = run.card_warning(cards, {**GOOD, **change})
    assert (warning is None) if words is None else words in warning


def test_a_machine_without_a_card_gets_no_warning(run):
    assert run.card_warning(run.Cards(), {**GOOD, "cuda": None, "available": False}) is None


def test_only_what_is_out_of_date_is_installed(run, tmp_path):
    requirements, constraints = tmp_path / "requirements.txt", tmp_path / "constraints.txt"
    requirements.write_text("tqdm>=4\n")
    constraints.write_text("tqdm==4.70.1\n")
    torch = run.TorchChoice("torch==2.13.0", None, "")
    app = run.digest(requirements, constraints)
    assert run.missing_steps({}, torch, app, None) == ["torch", "app"]
    stamp = {"torch": ["torch==2.13.0", None], "app": app}
    assert run.missing_steps(stamp, torch, app, None) == []
    assert run.missing_steps(stamp, torch, app, app) == ["test"]
    other = run.TorchChoice("torch==2.13.0+cu126", WHEELS + "cu126", "")
    assert run.missing_steps(stamp, other, app, None) == ["torch"]
    constraints.write_text("tqdm==4.70.2\n")
    assert run.missing_steps(stamp, torch, run.digest(requirements, constraints), None) == ["app"]


def test_line_ends_do_not_make_an_environment_old(run, tmp_path):
    unix, windows = tmp_path / "unix.txt", tmp_path / "windows.txt"
    unix.write_bytes(b"tqdm>=4\nPillow>=9\n")
    windows.write_bytes(b"tqdm>=4\r\nPillow>=9\r\n")
    assert run.digest(unix) == run.digest(windows)


def test_an_aborted_install_goes_on_with_the_step_that_failed(run, tmp_path, monkeypatch):
    environment = run.Environment(
        "test",
        tmp_path,
        ((3, 11),),
        tmp_path / "constraints.txt",
        tmp_path / "requirements.txt",
        tmp_path / "requirements-test.txt",
    )
    for name in ("constraints.txt", "requirements.txt", "requirements-test.txt"):
        (tmp_path / name).write_text(f"# {name}\n")
    asked: list[str] = []

    def pip(_environment, arguments, broken="requirements.txt"):
        asked.append(Path(arguments[1] if arguments[0] == "-r" else arguments[0]).name)
        if asked[-1] == broken:
            raise run.SetupError("no network")

    monkeypatch.setattr(run, "_pip", pip)
    monkeypatch.setattr(run, "torch_report", lambda python: GOOD)
    choice = run.TorchChoice("torch==2.13.0", None, "")
    with pytest.raises(run.SetupError, match="no network"):
        run._install(environment, {}, choice, run.Cards(), "app", "test")
    stamp = run.read_stamp(environment.stamp)
    assert stamp == {"torch": ["torch==2.13.0", None]}
    asked.clear()
    monkeypatch.setattr(run, "_pip", lambda e, arguments: pip(e, arguments, broken=None))
    run._install(environment, stamp, choice, run.Cards(), "app", "test")
    assert asked == ["pip>=23.0", "requirements.txt", "requirements-test.txt"]
    assert run.missing_steps(run.read_stamp(environment.stamp), choice, "app", "test") == []


def test_a_torn_stamp_counts_as_none(run, tmp_path):
    stamp = tmp_path / "stamp.json"
    assert run.read_stamp(stamp) == {}
    stamp.write_text('{"torch": ["torch==2.1')
    assert run.read_stamp(stamp) == {}
    run.write_stamp(stamp, {"app": "1"})
    assert json.loads(stamp.read_text()) == {"app": "1"}


def test_a_card_that_does_not_answer_today_keeps_its_build(run):
    stamp = {"torch": ["torch==2.13.0+cu126", WHEELS + "cu126"]}
    cpu = run.TorchChoice("torch==2.13.0+cpu", WHEELS + "cpu", "")
    assert run.keep_build(stamp, cpu, run.Cards(), "2.13.0").requirement == "torch==2.13.0+cu126"
    assert run.keep_build(stamp, cpu, run.Cards(), "2.14.0") == cpu
    card = run.Cards(("RTX 5090",), "580.95", ((12, 0),))
    new = run.TorchChoice("torch==2.13.0+cu130", WHEELS + "cu130", "")
    assert run.keep_build(stamp, new, card, "2.13.0") == new


def test_a_python_is_found_by_running_it(run):
    here = sys.version_info[:2]
    candidates = iter([["no-such-python"], [sys.executable]])
    assert run.find_python([here], candidates) == [sys.executable]
    with pytest.raises(run.SetupError, match="Python 3.10 is needed and was not found"):
        run.find_python([(3, 10)], iter([["no-such-python"]]))


def test_anothers_environment_is_told_what_it_lacks(run):
    wanted = ["torch>=2.1.2", "diffusers>=0.31.0", "Pillow>=9.5.0", 'tomli>=2.0; python_version < "3.11"']
    found = {"torch": "2.1.2+cu121", "diffusers": None, "Pillow": "9.4.0", "tomli": None}
    assert run.missing_requirements(wanted, found, (3, 11)) == ["diffusers>=0.31.0", "Pillow>=9.5.0"]
    assert run.missing_requirements(wanted, found, (3, 10)) == ["diffusers>=0.31.0", "Pillow>=9.5.0", "tomli>=2.0"]


def test_nothing_is_installed_into_anothers_environment(run):
    with pytest.raises(run.SetupError, match=r"lacks: no-such-package>=1\.0\nNothing was installed"):
        run.check_foreign(sys.executable, ["pytest>=8.0", "no-such-package>=1.0"])
    run.check_foreign(sys.executable, ["pytest>=8.0"])


def test_options_reach_the_command_that_they_are_for(run):
    options, rest = run.parse(["test", "--env", "host", "--quick", "--", "-k", "bucket", "-x"])
    assert (options.env, options.quick, rest) == ("host", True, ["-k", "bucket", "-x"])
    line = run.command_line("python", options, rest)
    assert line == ["python", "-m", "pytest", "-m", "not slow and not browser and not webui", "-k", "bucket", "-x"]
    options, rest = run.parse(["cli", "train", "--output_name", "a", "--env", "b"])
    assert (options.env, rest) == ("standalone", ["train", "--output_name", "a", "--env", "b"])
    assert run.parse(["cli", "--version"])[1] == ["--version"]
    assert run.parse(["demo", "--steps", "5"])[1] == ["--steps", "5"]
    with pytest.raises(SystemExit):
        run.parse(["test", "-k", "bucket"])


def test_our_package_is_importable_from_any_working_folder(run, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    options, _ = run.parse(["cli", "plan"])
    assert run.surroundings(options)["PYTHONPATH"].split(run.os.pathsep) == [str(ROOT), "elsewhere"]
