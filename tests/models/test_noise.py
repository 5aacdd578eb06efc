from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.models.noise import ImageNoise, Philox


def test_philox_gives_what_cuda_draws():
    # torch.randn(3, 4, device="cuda") after torch.manual_seed(0), as the WebUI's rng_philox documents it.
    expected = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    assert np.allclose(Philox(0).randn((3, 4)), expected, rtol=1e-6)


def test_philox_is_normal_and_goes_on():
    philox = Philox(2**40 + 7)
    first, second = philox.randn((4, 64, 64)), philox.randn((4, 64, 64))
    assert first.dtype == np.float32
    for draw in (first, second):
        assert abs(draw.mean()) < 0.03
        assert draw.std() == pytest.approx(1, abs=0.03)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("source", ["CPU", "GPU", "NV"])
def test_a_pictures_noise_depends_on_its_seed_alone(source):
    batch, alone = ImageNoise((4, 3, 2), [5, 9], source), ImageNoise((4, 3, 2), [9], source)
    for _ in range(3):
        assert torch.equal(batch.next()[1:], alone.next())


def test_the_cpus_noise_is_one_generators_sequence():
    noise = ImageNoise((4, 3, 2), [5])
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        assert torch.equal(noise.next()[0], torch.randn(4, 3, 2, generator=generator))


def test_global_generators_stay():
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    for source in ("CPU", "GPU", "NV"):
        ImageNoise((4, 3, 2), [5], source).next()
    assert torch.equal(torch.get_rng_state(), before_torch)
    assert (np.random.get_state()[1] == before_numpy).all()


def test_unknown_sources_are_refused():
    with pytest.raises(StudioError, match="randn_source"):
        ImageNoise((4, 3, 2), [5], "TPU")
