"""From LoRA files and checkpoints to LoRA files and checkpoints: what a layer is changed by, and tools on it."""
