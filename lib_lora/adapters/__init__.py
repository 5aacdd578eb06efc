"""Network types: what a LoRA adds to a frozen layer, and how it is attached, saved and loaded."""

# A network type registers itself when its module is imported: one line here per type.
from lib_lora.adapters import lora as lora
