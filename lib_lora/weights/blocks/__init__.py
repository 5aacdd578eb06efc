"""Block weights: how strongly a LoRA acts in each block of a model."""
