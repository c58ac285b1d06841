"""Attack the commands with random bad input: ``python -m tests.adversarial.fuzz --cases 500 --seed 1``.

One line for each case that ended wrongly, then a summary; exit code 1 if there was any.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.adversarial.fuzz", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", default="0", help="another seed, other cases")
    parser.add_argument("--only", metavar="FAMILY[:NUMBER]", help="one family, or one case of it again, shown in full")
    options = parser.parse_args()
    os.environ.update(
        AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE=os.devnull, AWS_ENDPOINT_URL="http://127.0.0.1:9"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        os.environ.pop(name, None)

    from tests.adversarial.fuzz import attack, cases, world

    only, _, number = (options.only or "").partition(":")
    names = [only] if only else list(cases.FAMILIES)
    codes: Counter[tuple[str, int]] = Counter()
    wrong: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world.make(Path(folder) / "world")
        for turn in [int(number)] if number else range(options.cases):
            name = names[turn % len(names)] if not number else only
            with tempfile.TemporaryDirectory(dir=folder) as place:
                root = cases.copy(Path(folder) / "world", Path(place))
                case = cases.FAMILIES[name](random.Random(f"{options.seed} {name} {turn}"), root)
                code, shown, faults = attack.run(case, root)
            codes[name, code] += 1
            for fault in faults:
                wrong[fault.split()[0]] += 1
                print(f"{name}:{turn} {case.script} {case.what}: {fault}", flush=True)
            if number:
                print(f"{case.script} {case.arguments}\nexit {code}\n{shown}")
    for name in names:
        ended = ", ".join(f"{count} x {code}" for (family, code), count in sorted(codes.items()) if family == name)
        print(f"{name:<12} exit codes {ended}")
    seconds = time.monotonic() - start
    kinds = {"tracebacks": "traceback", "wrong exit codes": "exit", "leftovers": "leftover", "hangs": "hang"}
    said = ", ".join(f"{what} {wrong[kind]}" for what, kind in kinds.items())
    others = sum(count for fault, count in wrong.items() if fault not in kinds.values())
    print(f"{sum(codes.values())} cases, seed {options.seed}, {seconds:.0f} s: {said}, others {others}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
