"""Fine-tuning: any subset of a retrieval model's heads, or a reranker, on packed batches."""
