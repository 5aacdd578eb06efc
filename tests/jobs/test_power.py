from __future__ import annotations

import time

import pytest

from lib_lora.jobs.power import Shutdown, shutdown_command

from .conftest import wait_for


@pytest.mark.parametrize(
    ("platform", "program"), [("win32", "shutdown"), ("darwin", "osascript"), ("linux", "systemctl")]
)
def test_every_platform_has_its_own_command(platform, program):
    assert shutdown_command(platform)[0] == program


def test_a_planned_shutdown_comes_and_one_that_was_called_off_does_not(monkeypatch, tmp_path):
    monkeypatch.setattr("lib_lora.jobs.power.shutdown_command", lambda: ["touch", str(tmp_path / "off")])
    shutdown = Shutdown(delay_s=0.1)
    shutdown.plan()
    assert shutdown.at > time.time()
    shutdown.cancel()
    assert shutdown.at is None
    time.sleep(0.3)
    assert not (tmp_path / "off").exists()
    shutdown.plan()
    wait_for((tmp_path / "off").exists, 10)


def test_a_shutdown_that_fails_is_no_error_of_the_queue(monkeypatch, caplog):
    monkeypatch.setattr("lib_lora.jobs.power.shutdown_command", lambda: ["no-such-program"])
    Shutdown().run()
    assert "could not be shut down" in caplog.text
