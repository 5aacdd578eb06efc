"""Files on disk: atomic writes, captions, image headers, safetensors, LoRA files."""
