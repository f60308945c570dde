"""Measuring models and pipelines as the papers do."""
