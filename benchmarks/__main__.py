"""Every speed benchmark, one after the other: `make bench`."""

from benchmarks import api_start, entropy_counts, fit_speed, solve_speed


def main() -> None:
    """Run them with their defaults."""
    for benchmark in (entropy_counts, fit_speed, solve_speed, api_start):
        benchmark.main()


if __name__ == "__main__":
    main()
