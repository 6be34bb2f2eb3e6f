"""``python -m bench_adapters`` is the ``bench-adapters`` command."""

from bench_adapters.cli import main

if __name__ == "__main__":
    main()
