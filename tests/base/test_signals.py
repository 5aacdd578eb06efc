from __future__ import annotations

from lib_lora.base.signals import Control


def test_a_stop_outdoes_a_pause():
    control = Control()
    assert not control.stopping and not control.pausing
    control.pause()
    assert control.pausing and control.frees_model
    control.stop()
    assert control.stopping and not control.pausing


def test_a_pause_ends_with_resume():
    control = Control()
    control.pause(free_model=False)
    assert control.pausing and not control.frees_model
    control.resume()
    assert not control.pausing and not control.stopping


def test_a_wish_for_a_state_is_taken_once():
    control = Control()
    assert not control.take_state_wish()
    control.save_state()
    assert control.take_state_wish() and not control.take_state_wish()
