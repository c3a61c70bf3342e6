"""The errand of test.py: measures, comparisons, figures and the HTML report."""
