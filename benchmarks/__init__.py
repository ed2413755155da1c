"""Speed benchmarks, one module per question: norm, step, decode and prepare. ``make bench`` runs them all.

Each prints its tables, appends rows to results/benchmarks.csv and regenerates results/speed.md and its figure.
"""

import normplugins  # noqa: F401  (lets the benchmarks import fairseq)
