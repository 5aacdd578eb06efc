"""LoRA Studio: from a folder of pictures to a LoRA, inside the WebUI, standalone or by command line."""

__version__ = "0.1.0"
