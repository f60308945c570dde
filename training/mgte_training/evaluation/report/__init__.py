"""The page, the table and the figures that an evaluation becomes."""
