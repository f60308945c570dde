"""The command ``mgte-rag``."""
