"""Training: the loop, checkpoints, optimizers, the criterion, and training in several processes."""
