"""What the extension adds to the WebUI's start: ``python bench/startup.py --rounds 5``.

Starts the WebUI that SD_WEBUI_DIR and SD_WEBUI_PYTHON name with the extension and without it, by turns, and prints what
its own timer says, the processor's time until it answers, and what the timer books under our files. The time of
install.py comes on top; it is run as the WebUI's launcher runs it, with all packages there. Then the modules of ours
that take longest to import.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from webui_server import prepare_data_dir, start_server

ROOT = Path(__file__).resolve().parent.parent
OURS = ("load scripts/lora_studio.py", "app_started_callback/extension.py")
IMPORTED_AT_START = "lib_lora.hosts.webui.extension, lib_lora.hosts.webui.host, lib_lora.jobs.queue, lib_lora.api.app"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as folder:
        prepare_data_dir(Path(folder))
        for index in range(rounds + 1):
            for name in rows:
                row = start_once(Path(folder), enabled=name == "with")
                if index:  # the first round fills the system's caches
                    rows[name].append(row)
                print(f"{index} {name:8}", "  ".join(f"{what} {value:6.2f}" for what, value in row.items()), flush=True)
        (extension,) = (Path(folder) / "extensions").iterdir()
        installs = [install_once(extension) for _ in range(rounds)]
    print(f"\n{'median, s':34}{'without':>9}{'with':>9}{'more':>9}")
    for what in rows["with"][0]:
        without, with_it = (statistics.median(row[what] for row in rows[name]) for name in ("without", "with"))
        print(f"{what:34}{without:9.2f}{with_it:9.2f}{with_it - without:9.2f}")
    print(f"{'install.py':34}{0:9.2f}{statistics.median(installs):9.2f}{statistics.median(installs):9.2f}")
    print("\n".join(["", "imports, ms", *slowest_imports()]))


def start_once(data_dir: Path, *, enabled: bool) -> dict[str, float]:
    """Seconds of one start."""
    disabled = [] if enabled else [each.name for each in (data_dir / "extensions").iterdir()]
    (data_dir / "config.json").write_text(json.dumps({"disabled_extensions": disabled}), encoding="utf-8")
    server = start_server(data_dir)
    try:
        times = psutil.Process(server.process.pid).cpu_times()
        profile = server.get("/internal/profile-startup")
        return {
            "the WebUI's own timer": profile["total"],
            "processor until it answers": times.user + times.system,
            **{what: profile["records"].get(what, 0.0) for what in OURS},
        }
    finally:
        server.stop()
        server.log.unlink()


def install_once(extension: Path) -> float:
    surroundings = {**os.environ, "PYTHONPATH": os.environ["SD_WEBUI_DIR"], "PIP_NO_INDEX": "1"}  # it must add nothing
    surroundings.pop("PIP_FIND_LINKS", None)
    began = time.perf_counter()
    command = f'"{os.environ["SD_WEBUI_PYTHON"]}" "{extension / "install.py"}"'
    done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True, env=surroundings)
    seconds = time.perf_counter() - began
    assert not done.stdout, done.stdout
    return seconds


def slowest_imports(count: int = 12) -> list[str]:
    """Own time of each module that is imported at the start and was not there before, ours and others'."""
    there = "import torch, gradio, fastapi, yaml, safetensors"
    code = f"{there}, sys; sys.stderr.write('BEGIN\\n'); import {IMPORTED_AT_START}"
    done = subprocess.run(
        [os.environ["SD_WEBUI_PYTHON"], "-W", "ignore", "-X", "importtime", "-c", code],
        check=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    found = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr.partition("BEGIN")[2])
    times = sorted(((int(microseconds) / 1000, name) for microseconds, name in found), reverse=True)
    lines = [f"{name:44}{ms:8.1f}" for ms, name in times[:count]]
    return [*lines, f"{f'all {len(times)} modules':44}{sum(ms for ms, _ in times):8.1f}"]


if __name__ == "__main__":
    main()
