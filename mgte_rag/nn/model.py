"""An encoder and the heads that stand on it."""

from torch import nn

from mgte_rag.config import ClassifierConfig, ModelConfig, MultiVectorConfig
from mgte_rag.nn.encoder import Encoder
from mgte_rag.nn.heads import ClassifierHead, LanguageHead, MultiVectorHead, SparseHead


class RetrievalModel(nn.Module):
    """The modules of a model; the heads it does not have are None.

    The engine calls the encoder once and then those heads that were asked for, so there is no ``forward``.

    Args:
        config: the model's switches.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.encoder.hidden
        self.encoder = Encoder(config.encoder)
        self.sparse = _sparse_head(config) if config.sparse else None
        self.multi_vector = _multi_vector_head(hidden, config.multi_vector)
        self.classifier = _classifier_head(config, config.classifier)
        self.language = (
            LanguageHead(hidden=hidden, vocabulary=config.encoder.vocabulary, norm_eps=config.encoder.norm_eps)
            if config.language_model
            else None
        )


def _sparse_head(config: ModelConfig) -> SparseHead:
    encoder = config.encoder
    return SparseHead(hidden=encoder.hidden, vocabulary=encoder.vocabulary if config.lexicon else 0)


def _multi_vector_head(hidden: int, config: MultiVectorConfig | None) -> MultiVectorHead | None:
    if config is None:
        return None
    return MultiVectorHead(hidden=hidden, dims=config.dims, sliced=config.sliced, bias=config.bias)


def _classifier_head(config: ModelConfig, classifier: ClassifierConfig | None) -> ClassifierHead | None:
    if classifier is None:
        return None
    return ClassifierHead(
        hidden=config.encoder.hidden,
        activation=classifier.activation,
        bias=classifier.bias,
        norm_eps=config.encoder.norm_eps if classifier.norm else None,
        norm_bias=config.encoder.norm_bias,
    )
