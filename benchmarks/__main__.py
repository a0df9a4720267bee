"""python -m benchmarks [NAME…]: every goal of docs/performance.md, or those of some, measured here and now."""

import importlib
import sys

NAMES = (
    "trap", "patched", "punned", "untouched", "race", "observe", "hooks", "store", "startup", "import_logs",
    "others", "outside", "stats", "text", "show", "report", "diff", "decode", "guest", "kernel",
)  # fmt: skip


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no such benchmark: {' '.join(unknown)}; there are {' '.join(NAMES)}", file=sys.stderr)
        return 2
    all_met = True
    for name in names or NAMES:
        for result in importlib.import_module(f"benchmarks.{name}").run():
            measured = f"{result.measured:,.2f}" if result.measured < 1000 else f"{result.measured:,.0f}"
            met = "" if not result.goal else "met" if result.met else "NOT MET"
            print(f"{result.name:<62} {result.goal:>10}  {measured:>10} {result.unit:<2} {met}", flush=True)
            all_met &= result.met
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
