"""How the embedded default's heads and its reranker are made, from open pairs to what ships with the package."""
