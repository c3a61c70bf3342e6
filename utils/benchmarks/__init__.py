"""The errand of benchmark.py: its suites, and the plain implementation they are timed against."""
