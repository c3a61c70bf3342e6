"""For predict.py: finding images, and scoring them in bulk with Ray."""
