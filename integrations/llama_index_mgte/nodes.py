"""Nodes to a collection's documents and back: what is given back is the node as it went in.

A document's text is what LlamaIndex embeds, ``get_content(MetadataMode.EMBED)``: the node's text, with the metadata in
front that is not excluded. Its metadata are the node's, and all other fields of the node under a name of their own.
"""

import json
from collections.abc import Iterable
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)

from mgte_rag import InputTypeError, InvalidDocumentError
from mgte_rag.errors import shown
from qdrant_mgte import Hit, StoredDocument

# The metadata field that holds what is no metadata of the node.
NODE = "_llama_index"
REF_DOC_ID = f"{NODE}.ref_doc_id"

_CLASSES = {cls.class_name(): cls for cls in (TextNode, Node, Document, ImageNode, ImageDocument, IndexNode)}
_RESOURCES = ("text_resource", "image_resource", "audio_resource", "video_resource")
_OF_THE_WHOLE = (
    "excluded_embed_metadata_keys",
    "excluded_llm_metadata_keys",
    "metadata_template",
    "metadata_seperator",
    "text_template",
)


def to_documents(nodes: Iterable[BaseNode]) -> list[dict[str, Any]]:
    """Nodes as ``HybridCollection.upsert`` takes them.

    Raises:
        InputTypeError: something is no node; the message names its position.
        InvalidDocumentError: a node that cannot be written down; nothing was stored.
    """
    return [_to_document(node, position) for position, node in enumerate(check_nodes(nodes))]


def check_nodes(nodes: Any) -> list[BaseNode]:
    """A list of the nodes.

    Raises:
        InputTypeError: something is no node; the message names its position.
    """
    if isinstance(nodes, str | BaseNode) or not isinstance(nodes, Iterable):
        raise InputTypeError(f"nodes must be a list of LlamaIndex documents or nodes, not {shown(nodes)}")
    listed = list(nodes)
    for position, node in enumerate(listed):
        if not isinstance(node, BaseNode):
            raise InputTypeError(f"nodes[{position}] must be a LlamaIndex document or node, not {shown(node)}")
    return listed


def _to_document(node: BaseNode, position: int) -> dict[str, Any]:
    if NODE in node.metadata:
        raise InvalidDocumentError(
            f"nodes[{position}] has the metadata field {NODE!r}, kept for the node itself; nothing was stored"
        )
    text, content = node.get_content(MetadataMode.EMBED), node.get_content(MetadataMode.NONE)
    words = content.strip()  # LlamaIndex strips what it embeds
    start = text.find(words)
    before = content[: len(content) - len(content.lstrip())] if words else content
    record = {
        "ref_doc_id": node.ref_doc_id or node.node_id,
        "class": next(name for cls in type(node).__mro__ for name, known in _CLASSES.items() if cls is known),
        "fields": json.dumps(_fields(node, position), ensure_ascii=False),
        "content": [start, start + len(words), before, content[len(before) + len(words) :]],
    }
    if start < 0:  # a class of the caller's, that embeds something else
        record["content"] = content
    return {"id": node.node_id, "text": text, "metadata": {**node.metadata, NODE: record}}


def _fields(node: BaseNode, position: int) -> dict[str, Any]:
    """A node's fields without metadata, text and embedding."""
    try:
        fields: dict[str, Any] = node.model_dump(mode="json", exclude={"metadata", "embedding", "text"})
        if isinstance(node, IndexNode):
            fields["obj"] = node.to_dict()["obj"]  # the first releases of 0.14 write it down here alone
    except ValueError as error:  # pydantic's own are ValueErrors too
        raise InvalidDocumentError(
            f"nodes[{position}], {node.node_id!r}, cannot be written as JSON, nothing was stored: {error}"
        ) from error
    for name in ("metadata", "embedding", "text", "class_name"):
        fields.pop(name, None)
    fields["metadata_seperator"] = fields.pop("metadata_separator")  # the name that every release reads
    for name in _RESOURCES:
        resource = getattr(node, name, None)
        if resource is not None and name == "text_resource":
            fields[name].pop("text", None)
        if resource is not None and resource.data is not None:  # base64, which pydantic leaves out
            fields[name]["data"] = resource.data.decode("ascii")
    return fields


def to_node(document: StoredDocument | Hit) -> BaseNode:
    """The node of a whole document; of one that was not written here, a node with its id, text and metadata."""
    metadata = dict(document.metadata)
    record = metadata.pop(NODE, None)
    if record is None:
        return TextNode(id_=document.id, text=document.text, metadata=metadata)
    fields = json.loads(record["fields"])
    content = record["content"]
    if not isinstance(content, str):
        start, end, before, after = content
        content = before + document.text[start:end] + after
    if "text_resource" not in fields:
        fields["text"] = content
    elif fields["text_resource"] is not None:
        fields["text_resource"]["text"] = content
    return _CLASSES[record["class"]].from_dict({**fields, "metadata": metadata})


def to_piece(hit: Hit) -> BaseNode:
    """The node of a hit: the whole one, or a piece of it whose source it is."""
    if hit.chunks == 1:
        return to_node(hit)
    metadata = dict(hit.metadata)
    record = metadata.pop(NODE, None)
    if record is None or isinstance(record["content"], str):
        return TextNode(id_=hit.chunk_id, text=hit.text, metadata=metadata)
    fields = json.loads(record["fields"])
    start, end, before, _ = record["content"]
    first, last = max(start - hit.start, 0), min(end - hit.start, len(hit.text))  # without the metadata in front
    begin = hit.start + first - start + len(before)
    own_source = fields["relationships"].get(NodeRelationship.SOURCE.value)
    whole = RelatedNodeInfo(node_id=hit.id, node_type=_CLASSES[record["class"]].get_type(), metadata=metadata)
    return TextNode(
        id_=hit.chunk_id,
        text=hit.text[first:last] if last > first else hit.text,
        metadata=metadata,
        relationships={NodeRelationship.SOURCE: whole if own_source is None else own_source},
        start_char_idx=begin if last > first else None,
        end_char_idx=begin + last - first if last > first else None,
        **{name: fields[name] for name in _OF_THE_WHOLE if name in fields},
    )


def scored(hits: Iterable[Hit]) -> list[NodeWithScore]:
    """Hits as a retriever returns them."""
    return [NodeWithScore(node=to_piece(hit), score=hit.score) for hit in hits]
