"""``python -m lib_lora``."""

import sys

from lib_lora.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
