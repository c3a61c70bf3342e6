"""Scoring in bulk: folders of Parquet, on one machine or on a Ray cluster."""
