"""What the machine can do, against which shares are given: the processor's peak and the memory's speed."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("fma_peak.cpp")


def peak_gflops(threads: int, precision: str = "float32") -> float:
    """Return the peak in `float32` or `bfloat16`, GFLOP/s.

    It is the faster of a register-resident loop and a 2048-square matrix product.
    """
    return max(_matrix_product_gflops(threads, precision), _register_gflops(threads, precision))


def memory_gigabytes(threads: int) -> float:
    """Return what the memory moves, GB/s: two arrays of 256 MB read and one written, each byte counted once.

    Source: J. McCalpin, "STREAM: sustainable memory bandwidth in high performance computers", 1995, its `add`.
    """
    code = (
        "import sys,time,torch;torch.set_num_threads(int(sys.argv[1]));a,b,c=(torch.ones(1<<26) for _ in 'abc');t=[]\n"
        "for _ in range(9):\n s=time.perf_counter();torch.add(b,c,out=a);t.append(time.perf_counter()-s)\n"
        "print(3*4*(1<<26)/sorted(t)[4]/1e9)"
    )
    return float(run([sys.executable, "-c", code, str(threads)]))


def _matrix_product_gflops(threads: int, precision: str) -> float:
    code = (
        "import sys,time,torch;torch.set_num_threads(int(sys.argv[1]))\n"
        "a=torch.randn(2048,2048).to(getattr(torch,sys.argv[2]));a@a;t=[]\n"
        "for _ in range(9):\n s=time.perf_counter();a@a;t.append(time.perf_counter()-s)\n"
        "print(2*2048**3/sorted(t)[4]/1e9)"
    )
    return float(run([sys.executable, "-c", code, str(threads), precision]))


def _register_gflops(threads: int, precision: str) -> float:
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "fma_peak")
        run([compiler, "-O3", "-march=native", "-std=c++17", str(SOURCE), "-o", program, "-pthread"])
        return float(run([program, str(threads), precision]))


def run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a command, with some more in its environment, and return what it prints; end with its errors if it fails."""
    variables = os.environ | (environment or {})
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout
