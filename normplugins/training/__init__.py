"""Training: the loop, checkpoints, optimizers, the criterion and what several processes share."""
