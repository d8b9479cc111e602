"""Attacks on Modiste, as scripts that anyone can run: ``PYTHONPATH=tests python -m reliability kills --number 100``.

Each module has ``measure(number, seed)``, which returns the rows of its table; `report` writes them into
benchmarks/reliability.md.
"""
