"""Used by export.py and predict.py: models for other runtimes, and scoring with them."""
