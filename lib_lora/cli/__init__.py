"""``python -m lib_lora``: every job as a command."""
