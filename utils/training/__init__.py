"""The errand of train.py: its options, data, state between steps, logs and first weights."""
