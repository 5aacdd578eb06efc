"""The same numbers from the same seed, whatever the number of threads."""

from __future__ import annotations

import os


def ask_for_reproducible_sums() -> None:
    """Tell MKL, torch's matrix library on Intel-like processors, to give the same bits each time.

    Left to itself it divides a product among several threads as they come free, and sums come out different in the
    last digit from run to run. MKL reads the variable when it is first used, so this must come before the process's
    first product of matrices (Intel oneMKL developer guide, "Conditional Numerical Reproducibility"). What somebody
    has set is left as it is.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO")
