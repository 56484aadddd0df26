"""Loops are compiled, also where the machine code cannot be kept."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import numpy as np
from numba.core import caching
caching.CacheImpl._locator_classes = []
from pipeline.compositing import median
result = np.empty((1, 1), np.float32)
median.compute_median(np.array([[[3.0]], [[1.0]], [[2.0]]], np.float32), result)
print(result[0, 0])
"""


def test_loops_run_where_no_folder_can_be_written():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=os.environ
    )
    assert result.stdout.split() == ["2.0"]
