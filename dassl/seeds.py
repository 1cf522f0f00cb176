"""Valid seeds."""

MAX_SEED = 2**32 - 1
"""The largest seed of NumPy's generator."""


def seed_problem(seed: int) -> str:
    """What is wrong with a seed; empty if it is valid."""
    return "" if 0 <= seed <= MAX_SEED else f"a seed is a number from 0 to {MAX_SEED}, not {seed}"
