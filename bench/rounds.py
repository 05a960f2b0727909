"""What the comparisons share: contenders in processes of their own, rounds interleaved, and tables of medians."""

import json
import os
import statistics
import subprocess
import sys


def run_json(command: list[str], threads: int) -> dict:
    """What the command prints last, as JSON."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_rounds(contenders: dict[str, list[str]], count: int, threads: int, out: str | None) -> dict[str, list[dict]]:
    """Runs every contender once in each round; keeps all figures in `out`."""
    rounds: dict[str, list[dict]] = {name: [] for name in contenders}
    for number in range(count):
        for name, command in contenders.items():
            rounds[name].append(run_json(command, threads))
            print(f"round {number + 1}: {name}: {json.dumps(rounds[name][-1])}", file=sys.stderr)
    if out:
        with open(out, "w") as file:
            json.dump(rounds, file, indent=1)
    return rounds


def of(rounds: dict[str, list[dict]], name: str, column: str) -> list[float]:
    """The figures of a contender, where it has them."""
    return [figures[column] for figures in rounds[name] if column in figures]


def print_medians(rounds: dict[str, list[dict]], columns: list[str]) -> None:
    """A table of what was measured."""

    def cell(values: list[float]) -> str:
        return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})" if values else "–"

    print("medians (least–most) of the rounds")
    print_header(columns)
    for name in rounds:
        print(f"| {name} | " + " | ".join(cell(of(rounds, name, column)) for column in columns) + " |")


def print_header(columns: list[str]) -> None:
    """The head of a table whose first column has no name."""
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
