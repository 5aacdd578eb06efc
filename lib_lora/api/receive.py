"""Pictures that a page sends into a dataset."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from lib_lora.api.call import Call
from lib_lora.api.forms import allowed_folder
from lib_lora.api.open_datasets import DATASETS
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError


def receive(studio: Studio, call: Call) -> Any:
    """A picture as base64, and its caption; without one the prompt that is written in it. The file it has become.

    In a dataset that is open it is an entry of the history.
    """
    from lib_lora.dataset.receive import add_picture

    folder = allowed_folder(call.given("folder", str), studio.host, field="folder")
    caption = call.given("caption", str) if "caption" in call.body else None
    try:
        data = base64.b64decode(call.given("data", str), validate=True)
    except (binascii.Error, ValueError) as fault:
        raise StudioError("is not base64", field="data", allowed="a picture's bytes as base64") from fault
    found = DATASETS.holding(folder)
    path = add_picture(folder, call.given("name", str), data, caption, found.collection if found else None)
    return {"file": str(path), "name": path.name, "folder": str(folder)}
