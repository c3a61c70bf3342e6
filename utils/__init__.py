"""What the entry points share: options, checkpoints, the scoring loop, measures and reports."""
