"""Used by flops.py: parameters, multiply-accumulates and activations."""
