"""Time to the homework's best, 99.14 % of the test set: recipe `fast` over seeds, against the homework-style script.

    python benchmarks/time_to_accuracy.py [--seeds 5] [--script-seeds 1]

Kilonet's figure is the final epoch's accuracy of a schedule whose length was chosen on the holdout, and the seconds
are the whole command's, from its start to its result on the disk. The script trains the document's 15 epochs and is
given the benefit of the doubt: its time ends with the first epoch that reaches the accuracy, found by looking at the
test set.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kilonet.evaluation.statistics import mean_and_std
from kilonet.utils.environment import processor_name

TARGET = 0.9914
SCRIPT = Path(__file__).with_name("homework_style.py")
SCRIPT_EPOCHS = 15


def fast_run(seed: int) -> tuple[float, float, float]:
    """Train `fast` with a seed: seconds of the command, seconds of training, final accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "kilonet",
            "train",
            "fast",
            "--json",
            "--seed",
            str(seed),
            "--out",
            f"{folder}/run",
        ]
        start = time.perf_counter()
        result = json.loads(_run(command))
        seconds = time.perf_counter() - start
    return seconds, result["seconds"], result["final"]["test_accuracy"]


def script_run(seed: int) -> tuple[bool, float, float]:
    """Train the script to the target: whether it got there, seconds of training, highest accuracy."""
    schedule = ["--epochs", str(SCRIPT_EPOCHS), "--stop-at", str(TARGET), "--seed", str(seed)]
    done = json.loads(_run([sys.executable, str(SCRIPT), *schedule]))
    highest = max(done["test_accuracy"])
    return highest >= TARGET, sum(done["seconds"]), highest


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def main() -> None:
    """Run both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--script-seeds", type=int, default=1)
    options = parser.parse_args()
    fast = [fast_run(seed) for seed in range(options.seeds)]
    scripts = [script_run(seed) for seed in range(options.script_seeds)]
    whole, training, accuracies = ([run[part] for run in fast] for part in range(3))
    mean, deviation = mean_and_std([100 * accuracy for accuracy in accuracies])
    every = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
    middle, trained = statistics.median(whole), statistics.median(training)
    print(f"{processor_name()}\n")
    print(f"- `kilonet train fast`: {mean:.2f} ± {deviation:.2f} % (final epoch, n = {options.seeds}: {every}),")
    print(f"  {middle:.1f} s for the whole command, {trained:.1f} s of it training (medians)")
    for reached, spent, highest in scripts:
        what = f"to the first epoch at {100 * TARGET:.2f} %" if reached else f"without it (best {100 * highest:.2f} %)"
        print(f"- homework-style script: {spent:.0f} s of training {what},")
        print(f"  {spent / trained:.0f} times our training, {spent / middle:.0f} times our whole command")


if __name__ == "__main__":
    main()
