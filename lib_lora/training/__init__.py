"""Training: noise, losses, objectives, optimizers, schedules and the loop that joins them."""
