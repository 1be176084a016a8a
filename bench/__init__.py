"""Measurements, each a module to run: ``python -m bench.commands``. Medians are what to quote."""
