"""The errand of flops.py: parameters, multiply-accumulates and activations."""
