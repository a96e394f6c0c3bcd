"""How fast this machine multiplies matrices: the yardstick beside every time that we report."""

from __future__ import annotations

import signal
import subprocess
import sys
import time


def measure_gflops(dtype: str) -> tuple[float | None, str | None]:
    """GFLOP/s of a square product in `float32` or `bfloat16` on all CPU threads, or None and the reason.

    Measured in a process of its own, because some virtual machines announce bfloat16 instructions and then
    kill the process that uses them.
    """
    command = [sys.executable, "-m", "icreward_lib.run.matmul", dtype]
    probe = subprocess.run(command, capture_output=True, text=True)
    if probe.returncode == 0:
        return float(probe.stdout), None
    if probe.returncode < 0:
        return None, f"a {dtype} product ends the process with {signal.Signals(-probe.returncode).name}"
    return None, f"a {dtype} product fails: {probe.stderr.strip().splitlines()[-1]}"


def _product_gflops(dtype: str, *, size: int = 1024, repeats: int = 10) -> float:
    """The best of some products of two (size, size) matrices, in GFLOP/s."""
    import torch  # here, as the process that asks needs none of it

    matrix = torch.ones(size, size, dtype=getattr(torch, dtype))
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - begin)
    return round(2 * size**3 / best / 1e9, 1)


if __name__ == "__main__":
    print(_product_gflops(sys.argv[1]))
