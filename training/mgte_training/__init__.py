"""Producing and fine-tuning models."""
