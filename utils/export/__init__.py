"""For export.py: models as files for other runtimes, and scoring with them."""
