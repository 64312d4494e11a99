"""What a measured call costs: `python -m benchmarks`. The method is described in ``docs/performance.md``."""
