"""Prompts and captions before any network sees them: tokens, chunks, emphasis, prompt editing, LoRA tags."""
