"""Files on disk: atomic writes, captions, image headers, safetensors, PyTorch's own files, LoRA files."""
