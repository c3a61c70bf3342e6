"""Used by test.py and predict.py: measures, comparisons, figures and the HTML report."""
