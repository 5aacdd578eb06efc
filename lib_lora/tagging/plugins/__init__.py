"""Taggers of one's own: a file in this folder is loaded when taggers are first asked for.

from lib_lora.base.protocols import Label
from lib_lora.tagging.registry import TAGGERS
from lib_lora.tagging.simple import SimpleTagger

@TAGGERS.register("brightness")
class Brightness(SimpleTagger):
    help = "light or dark"

    def tag(self, picture):
        light = sum(picture.convert("L").resize((1, 1)).getdata()) / 255
        return {Label("light"): light, Label("dark"): 1 - light}
"""
