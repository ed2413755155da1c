"""One run, from a Hydra config to a recorded result: compose, prepare, train, score, record."""
