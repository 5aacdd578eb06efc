"""Add to the WebUI's environment what LoRA Studio lacks there; the WebUI runs this at every start.

Only what is missing is added, in versions that fit, and with everything that is there as pip's constraints: nothing
changes version. Where all is there, pip is not called and nothing is printed. What only one feature wants may fail:
that feature is lost, not the rest. The WebUI shows what was printed when this has ended; an exit code other than 0
would make it print a traceback as well.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from lib_lora.base.packages import Package, how_to_add, installed_version, wanted_packages

ROOT = Path(__file__).resolve().parent
FAILURES = ROOT / ".install-failures.json"
RETRY_SECONDS = 24 * 3600  # a package that cannot be had must not cost every start of the WebUI a call of pip


def main() -> None:
    if "--skip-install" in shlex.split(os.environ.get("COMMANDLINE_ARGS", ""), posix=os.name != "nt"):
        return
    if sys.version_info < (3, 10):
        _say(f"Python 3.10 or newer is needed, and the WebUI runs on {sys.version.split()[0]}; nothing was added.")
        return
    packages = host_packages()
    for package in packages:
        if package.outdated:
            command = how_to_add(f"{package.name}=={package.least}")
            _say(
                f"{package.name} {package.found} is too old for {package.feature or 'training'}, which wants "
                f"{package.least} or newer. It was left as it is; to change it: {command}"
            )
    missing = [package for package in packages if package.found is None]
    needed = [package for package in missing if package.feature is None]
    failed_lately = _failed_lately()
    optional = [package for package in missing if package.feature and package.requirement not in failed_lately]
    if needed or optional:
        install(needed, optional)


def host_packages() -> list[Package]:
    """What this environment should have, and what it has."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    names = [line.partition(">=")[0] for line in lines]
    return wanted_packages(lines, sys.version_info[:2], {name: installed_version(name) for name in names})


def install(needed: list[Package], optional: list[Package]) -> None:
    """All at once; where that fails, what is needed together, then the rest one by one."""
    before = _installed()
    _say(f"adding {', '.join(package.requirement for package in [*needed, *optional])} ...")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{line}\n" for line in constraint_lines(before)), encoding="utf-8")
        if _pip([*needed, *optional], constraints) is not None:
            reason = _pip(needed, constraints)
            if reason is not None:
                # By hand pip may change what is in the way, but not to what these do not run with.
                kept = [f"{name}=={before[name]}" for name in ("transformers", "accelerate") if name in before]
                command = how_to_add(*(package.requirement for package in needed), *kept)
                _say(f"cannot train yet, for pip could not add what it needs: {reason}\n  To try by hand: {command}")
                return
            failures = {package: _pip([package], constraints) for package in optional}
            _note_failures({package: reason for package, reason in failures.items() if reason is not None})
    added = sorted(f"{name} {version}" for name, version in _installed().items() if name not in before)
    if added:
        _say(f"added {', '.join(added)}")


def constraint_lines(installed: dict[str, str]) -> Iterable[str]:
    """What ``pip freeze`` says, with ``name==version`` also for what came from a folder or an address: pip would
    fetch those again, or refuse them as constraints."""
    return (f"{name}=={version}" for name, version in sorted(installed.items()))


def _installed() -> dict[str, str]:
    """Versions by name. The first of two of one name is the one that is imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        # A broken uninstall leaves folders such as "~orch", which have no name that pip would take.
        name = distribution.metadata["Name"]
        if name and name[0].isalnum() and distribution.version:
            found.setdefault(name.lower().replace("_", "-").replace(".", "-"), distribution.version)
    return found


def _pip(packages: list[Package], constraints: Path) -> str | None:
    """Install them together; None, or why pip could not."""
    if not packages:
        return None
    index = os.environ.get("INDEX_URL", "")
    command = [
        *(sys.executable, "-m", "pip", "install", "--prefer-binary", "--disable-pip-version-check", "--no-input"),
        *(["--index-url", index] if index else []),
        *("--constraint", str(constraints)),
        *(package.requirement for package in packages),
    ]
    # The launcher puts the WebUI's folder on PYTHONPATH, which is nothing for pip's builds.
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=surroundings)
    if done.returncode == 0:
        return None
    return pip_reason(done.stdout, done.stderr)


def pip_reason(stdout: str, stderr: str) -> str:
    """What pip says of a failure, in one line: the packages that do not agree, or its first error."""
    conflict = stdout.partition("The conflict is caused by:")[2].strip().partition("\n\n")[0]
    if conflict:
        lines = [line.strip() for line in conflict.splitlines()]
        return "; ".join(re.sub(r"^The user requested \(constraint\) (\S+)$", r"\1 is there", line) for line in lines)
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "pip gave no reason")


def _note_failures(failures: dict[Package, str]) -> None:
    for package, reason in failures.items():
        _say(
            f"{package.name} could not be added ({reason}). {package.feature} cannot be used; everything "
            f"else works. To try by hand: {how_to_add(package.requirement)}"
        )
    record = {"environment": sys.prefix, "time": time.time(), "failed": [each.requirement for each in failures]}
    try:
        if failures:
            FAILURES.write_text(json.dumps(record), encoding="utf-8")
        else:
            FAILURES.unlink(missing_ok=True)
    except OSError:  # a folder that may only be read: pip is asked again at the next start
        pass


def _failed_lately() -> list[str]:
    try:
        record = json.loads(FAILURES.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    recent = record["environment"] == sys.prefix and abs(time.time() - record["time"]) < RETRY_SECONDS
    return record["failed"] if recent else []


def _say(text: str) -> None:
    print(f"LoRA Studio: {text}", flush=True)


if __name__ == "__main__":
    main()
