"""Used by train.py: options, data, state between steps, logs and first weights."""
