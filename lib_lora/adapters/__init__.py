"""Network types: what a LoRA adds to a frozen layer, and how it is attached, saved and loaded."""

# A network type registers itself when its module is imported: one line here per type.
from lib_lora.adapters import dylora as dylora
from lib_lora.adapters import full as full
from lib_lora.adapters import glora as glora
from lib_lora.adapters import ia3 as ia3
from lib_lora.adapters import loha as loha
from lib_lora.adapters import lokr as lokr
from lib_lora.adapters import lora as lora
from lib_lora.adapters import oft as oft
