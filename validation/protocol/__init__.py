"""Score pairs: verification rates, their intervals, tests between runs, published references."""
