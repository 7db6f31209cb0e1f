"""Training runs: order, encoding, checkpoints, folders, progress, and the settings to begin with."""
