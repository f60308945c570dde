"""Which prompt a text gets in a task without queries and documents."""

from mgte_rag import EmbeddingModel


def symmetric_prompt(model: EmbeddingModel) -> str:
    """The prompt for texts that are alike: sentence pairs, texts to classify or to cluster.

    A model that puts a prompt before every document wants one always, and its query's is the one for texts that are
    alike (multilingual E5: "query: "). A model with a prompt for queries alone (BGE's instruction, arctic-embed's)
    wants it for retrieval only.

    Source: the model cards of intfloat/multilingual-e5-base, question 1, and of BAAI/bge-base-en-v1.5, usage.
    """
    return model.prompts["query"] if model.prompts["document"] else ""
