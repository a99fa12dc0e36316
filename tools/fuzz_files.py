"""Damage a model's file at random, again and again, and load what comes out: only clear errors and networks may follow.

    python tools/fuzz_files.py onnx --minutes 10 --seed 1

Prints how many files were tried, what became of them, the longest time that one took, and the most memory in use. Ends
with 1 if anything but a HasteError was raised; the file is then kept beside where it ran.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import onnx_models
import tflite_models

from haste_edge.frontends import load_model
from haste_runtime.errors import HasteError

NETWORKS = {
    "onnx": lambda: onnx_models.small_network().SerializeToString(),
    "tflite": lambda: tflite_models.small_network().model(),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, removed, added or repeated, more often where there are no weights; or the end cut off.

    Words of four bytes, which in flatbuffers lead elsewhere or count, are often replaced whole.
    """
    file = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not file:
            break
        place = rng.choice([rng.randrange(len(file)), rng.randrange(min(300, len(file))), -rng.randrange(1, 700)])
        place %= len(file)
        match rng.randrange(10):
            case 0 | 1 | 2 | 3:
                file[place] = rng.randrange(256)
            case 8 | 9:
                word = rng.choice((0, 1, rng.randrange(len(file)), 2**31 - 1, 2**31, 2**32 - rng.randrange(1, 1000)))
                file[place // 4 * 4 : place // 4 * 4 + 4] = word.to_bytes(4, "little")
            case 4:
                del file[place : place + rng.randint(1, 8)]
            case 5:
                file[place:place] = rng.randbytes(rng.randint(1, 8))
            case 6:
                file[place:place] = file[place : place + rng.randint(1, 64)]
            case 7:
                del file[place + 1 :]
    return bytes(file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=NETWORKS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")
    rng, data, kinds, longest = random.Random(options.seed), NETWORKS[options.format](), Counter[str](), 0.0
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged.{options.format}"
        while time.monotonic() < end:
            path.write_bytes(damaged(data, rng))
            started = time.process_time()
            try:
                load_model(str(path))
                kinds["a network"] += 1
            except HasteError as error:
                kinds[type(error).__name__] += 1
            except Exception as error:
                kinds[f"DEFECT {type(error).__name__}: {error}"] += 1
                Path(f"defect-{sum(kinds.values())}.{options.format}").write_bytes(path.read_bytes())
            longest = max(longest, time.process_time() - started)
    defects = sum(count for kind, count in kinds.items() if kind.startswith("DEFECT"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{sum(kinds.values())} files of {len(data)} bytes in {options.minutes:g} minutes, seed {options.seed}")
    for kind, count in kinds.most_common():
        print(f"{count:8d} {kind}")
    print(f"longest: {longest:.2f} s of processor time; most memory: {peak} MB, libraries included")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
