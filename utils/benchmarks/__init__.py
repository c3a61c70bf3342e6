"""Used by benchmark.py: its suites, and the plain implementation they are timed against."""
