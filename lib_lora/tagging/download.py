"""Fetches files of the model hub; a process of its own, so that it can be ended at any time. It goes on where it was.

    python -m lib_lora.tagging.download REPOSITORY FOLDER FILE...

It prints lines of JSON: ``{"bytes": of all files}`` first, and ``{"error": why}`` where that could not be done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence


def main(repository: str, folder: str, files: Sequence[str]) -> int:
    """0 where all is there."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        sizes = [get_hf_file_metadata(hf_hub_url(repository, name)).size or 0 for name in files]
        print(json.dumps({"bytes": sum(sizes)}), flush=True)
        for name in files:
            hf_hub_download(repository, name, local_dir=folder)
    except Exception as fault:  # its errors, those of its HTTP library and of the disk have no common class
        lines = str(fault).strip().splitlines() or [type(fault).__name__]
        print(json.dumps({"error": lines[0]}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
