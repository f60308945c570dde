"""An evaluation as files."""
