"""Who runs the engine: the WebUI or our own app."""
