"""Options: what a step makes small."""

from __future__ import annotations

from dataclasses import dataclass

from lib_lora.base.options import option

GROUP = "Loss and noise"


@dataclass(frozen=True)
class LossOptions:
    """The group "Loss and noise"."""

    loss_type: str = option(
        "l2",
        "what an error costs: l2 its square; huber and smooth_l1 (arXiv 2403.16728) and l1 mind outliers less",
        choices=("l2", "huber", "smooth_l1", "l1"),
        level="advanced",
        group=GROUP,
        label="Loss",
    )
    huber_c: float = option(
        0.1,
        "where huber and smooth_l1 turn from a square into a straight line; smaller minds outliers less",
        above=0,
        level="advanced",
        group=GROUP,
        label="Huber threshold",
    )
    huber_schedule: str = option(
        "snr",
        "how that place moves with the timestep: snr and exponential come down to huber_c at the most noise",
        choices=("snr", "exponential", "constant"),
        level="advanced",
        group=GROUP,
    )
    huber_scale: float = option(
        1.0,
        "that place is multiplied by this, but for the schedule snr",
        above=0,
        level="advanced",
        group=GROUP,
    )
    min_snr_gamma: float | None = option(
        None,
        "less weight on steps with little noise (arXiv 2303.09556); 5 is usual",
        above=0,
        group=GROUP,
        label="Min-SNR gamma",
    )
    debiased_estimation_loss: bool = option(
        False,
        "more weight on steps with much noise (arXiv 2310.08442), in place of min_snr_gamma",
        level="advanced",
        group=GROUP,
        label="Debiased estimation",
    )
    scale_v_pred_loss_like_noise_pred: bool = option(
        False,
        "v-prediction only: weigh timesteps as models do that predict the noise",
        level="advanced",
        group=GROUP,
        label="Weigh as for epsilon",
    )
    v_pred_like_loss: float | None = option(
        None,
        "epsilon only: add this times the loss as models weigh it that predict the velocity",
        above=0,
        level="advanced",
        group=GROUP,
        label="Loss like v-prediction's",
    )
    noise_offset: float = option(
        0.0, "lets pictures become darker and brighter; 0.05 to 0.1 is usual", minimum=0, maximum=1, group=GROUP
    )
    noise_offset_random_strength: bool = option(
        False,
        "draw each picture's offset from 0 to noise_offset",
        level="advanced",
        group=GROUP,
        label="Random noise offset",
    )
    adaptive_noise_scale: float = option(
        0.0, "adds this times the latent's mean to noise_offset", level="advanced", group=GROUP
    )
    multires_noise_iterations: int = option(
        0,
        "levels of coarser noise that are added, for darker and brighter pictures; 6 to 10 is usual, 0 is off",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Multires noise levels",
    )
    multires_noise_discount: float = option(
        0.3,
        "strength of each level of multires noise against the one before it; 0.1 to 0.4 is usual, 0.8 for few pictures",
        minimum=0,
        maximum=1,
        level="advanced",
        group=GROUP,
    )
    ip_noise_gamma: float = option(
        0.0,
        "noise that only the UNet's input gets, against overfitting (arXiv 2301.11706); 0.1 is usual",
        minimum=0,
        maximum=1,
        level="advanced",
        group=GROUP,
        label="Input perturbation",
    )
    ip_noise_gamma_random_strength: bool = option(
        False,
        "draw each picture's strength from 0 to ip_noise_gamma",
        level="advanced",
        group=GROUP,
        label="Random input perturbation",
    )
    prior_loss_weight: float = option(
        1.0,
        "weight of regularisation pictures",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Weight of regularisation",
    )
    min_timestep: int = option(
        0, "smallest timestep trained", minimum=0, maximum=999, level="advanced", group=GROUP, label="Smallest timestep"
    )
    max_timestep: int = option(
        1000,
        "timesteps trained lie below this",
        minimum=1,
        maximum=1000,
        level="advanced",
        group=GROUP,
        label="Timesteps below",
    )
