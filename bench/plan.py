"""How long the plan of a run takes for many pictures: ``python bench/plan.py --pictures 10000``.

Makes a folder of small PNG files with captions, plans it three times and prints the times and the memory. The first
time the files' headers come from the disk's cache as the system left it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_lora.dataset.plan import build_plan
from lib_lora.dataset.records import scan


def make_pictures(folder: Path, count: int) -> None:
    """Pictures of 50 different shapes, so that there are many buckets."""
    folder.mkdir(parents=True)
    data = {}
    for index in range(50):
        path = folder / "shape.png"
        Image.new("RGB", (400 + 12 * index, 1000 - 12 * index)).save(path)
        data[index] = path.read_bytes()
        path.unlink()
    for index in range(count):
        (folder / f"{index:06d}.png").write_bytes(data[index % 50])
        (folder / f"{index:06d}.txt").write_text("tag, another tag", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    count = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "2_many"
        make_pictures(folder, count)
        print(f"{'run':>4} {'scan s':>8} {'plan s':>8} {'pictures/s':>11} {'buckets':>8} {'steps':>8}")
        for number in range(1, 4):
            begin = time.perf_counter()
            found = scan(folder)
            scanned = time.perf_counter()
            plan = build_plan(found, resolution=(512, 512), batch_size=4, epochs=1)
            end = time.perf_counter()
            rate = count / (end - begin)
            print(
                f"{number:>4} {scanned - begin:>8.2f} {end - scanned:>8.2f} {rate:>11.0f} {len(plan.buckets):>8} "
                f"{plan.total_steps:>8}"
            )


if __name__ == "__main__":
    main()
