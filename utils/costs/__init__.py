"""The errand of flops.py: counting parameters, multiply-accumulates and activations."""
