"""Release: merge, parity, the model card."""
