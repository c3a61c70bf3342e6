"""The errand of benchmark.py: its suites, and the plain implementation that they compare with."""
