"""The entry point of a driver whose clock may be wrong: by the seconds in the file `clock-step` of the project folder.

Only Python's `time` is wrong. The clock of the JVM is right, as if the driver's parts ran on two machines. (Debian's faketime
0.9.10 cannot be used: Python's `time.sleep` does not end with it.)
"""

import runpy
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEP = HERE.parent / "clock-step"

if __name__ == "__main__":
    if STEP.exists():
        seconds = float(STEP.read_text())
        true, true_ns = time.time, time.time_ns
        time.time = lambda: true() + seconds
        time.time_ns = lambda: true_ns() + int(seconds * 1_000_000_000)
    runpy.run_path(str(HERE / "true_main.py"), run_name="__main__")
