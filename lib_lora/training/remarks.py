"""What a person should know of the options before a run of them begins."""

from __future__ import annotations

from collections.abc import Iterator

from lib_lora.base.options import options_of
from lib_lora.training.config import TrainConfig, alpha_warning
from lib_lora.training.network_checks import MAKING, WITHOUT_ALPHA, WITHOUT_RANK

# Options that do nothing while another one is off, and which one that is.
_NEEDS = {
    "noise_offset_random_strength": "noise_offset",
    "multires_noise_discount": "multires_noise_iterations",
    "ip_noise_gamma_random_strength": "ip_noise_gamma",
    "validation_seed": "validation_split",
    "validate_every_n_epochs": "validation_split",
    "validate_every_n_steps": "validation_split",
    "save_best": "validation_split",
    "save_last_n_epochs": "save_every_n_epochs",
    "save_last_n_steps": "save_every_n_steps",
    "prior_loss_weight": "reg_data_dir",
}
# And those that want one of several.
_NEEDS_ONE = {
    "conv_alpha": ("conv_dim", "conv_block_dims"),
    **dict.fromkeys(
        ("keep_tokens", "keep_tokens_separator"), ("shuffle_caption", "caption_tag_dropout_rate", "token_warmup_step")
    ),
    **dict.fromkeys(
        ("sample_prompts", "sample_sampler"), ("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first")
    ),
}
_SCHEDULE = (
    "lr_scheduler_num_cycles",
    "lr_scheduler_power",
    "lr_scheduler_min_lr_ratio",
    "lr_decay_steps",
    "lr_scheduler_timescale",
    "lr_step_rules",
)
_HUBER = ("huber_c", "huber_schedule", "huber_scale")


def remarks(config: TrainConfig) -> list[str]:
    """One sentence each: what burns easily, and what has no effect as it is given."""
    return [*filter(None, [alpha_warning(config)]), *_without_effect(config)]


def _without_effect(config: TrainConfig) -> Iterator[str]:
    changed = {info.name for info in options_of(TrainConfig) if getattr(config, info.name) != info.default}
    for name, needed in _NEEDS.items():
        if name in changed and not getattr(config, needed):
            yield f"{name} has no effect without {needed}"
    for name, needed in _NEEDS_ONE.items():
        if name in changed and not any(getattr(config, each) for each in needed):
            yield f"{name} has no effect without {' or '.join(needed)}"
    for name in ("nan_guard_factor", "nan_guard_tries"):
        if name in changed and config.nan_guard != "rollback":
            yield f"{name} has no effect with nan_guard {config.nan_guard}"
    has_threshold = config.loss_type in ("huber", "smooth_l1")
    for name in _HUBER:
        if name in changed and not has_threshold:
            yield f"{name} has no effect with loss_type {config.loss_type}"
    if has_threshold and config.huber_schedule == "snr" and "huber_scale" in changed:
        yield "huber_scale has no effect with huber_schedule snr"
    yield from _of_other_networks(config, changed)
    yield from _of_other_schedules(config, changed)
    if config.min_snr_gamma and config.scale_v_pred_loss_like_noise_pred:
        yield "min_snr_gamma and scale_v_pred_loss_like_noise_pred both weigh timesteps: their product is taken"


def _of_other_networks(config: TrainConfig, changed: set[str]) -> Iterator[str]:
    if config.dim_from_weights:
        for name in MAKING:
            if name in changed:
                yield f"{name} has no effect with dim_from_weights"
        return
    kind = config.network_type
    without = {
        "network_dim": kind in WITHOUT_RANK,
        "network_alpha": kind in WITHOUT_ALPHA or config.full_matrix,
        "conv_alpha": kind in WITHOUT_ALPHA or config.full_matrix,
        "unit": kind != "DyLoRA",
    }
    for name, has_none in without.items():
        if name in changed and has_none:
            yield f"{name} has no effect with network_type {kind}{' and full_matrix' if config.full_matrix else ''}"


def _of_other_schedules(config: TrainConfig, changed: set[str]) -> Iterator[str]:
    names = [name for name in _SCHEDULE if name in changed]
    if not names:
        return
    from lib_lora.training.parts import schedule_name
    from lib_lora.training.schedules import SCHEDULES

    chosen = SCHEDULES.get(schedule_name(config))
    for name in names:
        if name not in chosen.options:
            yield f"{name} has no effect with lr_scheduler {chosen.name}"
