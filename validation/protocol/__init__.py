"""How pairs are scored: verification rates, their intervals, tests between runs, published references."""
