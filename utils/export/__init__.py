"""The errand of export.py: models for other runtimes, and scoring with them."""
