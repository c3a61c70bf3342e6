"""Used by predict.py: finding images, and scoring in bulk on one machine or a Ray cluster."""
