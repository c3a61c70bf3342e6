"""From image files and label files to batches of views. Imports no other package of this repository."""
