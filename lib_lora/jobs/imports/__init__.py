"""Settings of other programs, and of finished LoRAs, as options of ours."""
