"""Training: batches, the loss head, the loop, checkpoints, objectives."""
