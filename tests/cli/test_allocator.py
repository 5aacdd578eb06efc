from __future__ import annotations

import subprocess
import sys

import pytest

# A buffer of a gigabyte's quarter is used and freed, twice; the second time it must need (hardly) any new page.
FAULTS = """
import resource, sys
from lib_lora.cli.allocator import keep_freed_memory
import ctypes
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = malloc(1 << 28)
    ctypes.memset(held, 1, 1 << 28)
    free(held)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_buffer_that_is_used_again_needs_no_new_pages():
    """In a process of its own: the switch cannot be turned back."""

    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 100
    assert faults("default") > 100
