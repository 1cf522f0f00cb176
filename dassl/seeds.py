"""Which numbers are seeds."""

MAX_SEED = 2**32 - 1
"""NumPy's generator takes no larger one."""


def seed_problem(seed: int) -> str:
    """What is wrong with a seed in words; empty if nothing is."""
    return "" if 0 <= seed <= MAX_SEED else f"a seed is a number from 0 to {MAX_SEED}, not {seed}"
