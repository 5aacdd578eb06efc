"""The engine on its own: models from files, pictures by our own samplers."""
