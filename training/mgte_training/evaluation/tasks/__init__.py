"""Tasks other than retrieval of one's own: STS, classification, spans, and whatever mteb has."""
