"""Speed benchmarks, one module per question: norm, step, decode and prepare. ``make bench`` runs them all.

Each prints its tables, appends rows to results/benchmarks.csv and regenerates results/speed.md and its figure. Two
other modules have a JSON file of their own in results/: side_by_side, about processes that share a GPU, and
vision_statistics, about a ResNet20.
"""

import normplugins  # noqa: F401  (lets the benchmarks import fairseq)
