"""How the embedded default's heads, and a reranker for it, are made, from open pairs to what ships with the package."""
