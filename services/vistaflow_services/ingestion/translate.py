"""Between the protos and the decks, and the uploads."""

from __future__ import annotations

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.decks.library import Collected
from vistaflow_services.ingestion.uploads import Upload
from vistaflow_services.messages import parameter_message, response_message


def deck_to_proto(collected: Collected, *, with_text: bool) -> pb.Deck:
    """The wire form of a deck.

    Args:
        collected: The deck.
        with_text: Whether its text files come with their content.
    """
    deck = collected.deck
    message = pb.Deck(
        deck_id=deck.digest,
        name=deck.name,
        version=deck.version,
        simulator=deck.simulator,
        description=deck.description,
        parameters=map(parameter_message, deck.space.parameters),
        responses=map(response_message, deck.responses),
        constraints=map(str, deck.space.constraints),
        files=[
            pb.DeckFile(
                path=path,
                size_bytes=len(content),
                text=_text(content) if with_text else "",
            )
            for path, content in sorted(deck.files.items())
        ],
        shipped=collected.shipped,
        noisy=deck.noisy,
        keep_files=deck.keep_files,
        uri=f"artifact://decks/{collected.path.name}" if collected.path else "",
    )
    message.timeout.FromNanoseconds(int(deck.timeout_seconds * 1e9))
    if collected.created_at:
        message.created_at.FromDatetime(collected.created_at)
    return message


def upload_message(upload: Upload) -> pb.Upload:
    """The wire form of an upload."""
    header = upload.header
    message = pb.Upload(
        upload_id=header.upload_id,
        file_name=header.file_name,
        size_bytes=header.size_bytes,
        received_bytes=upload.received_bytes,
        sha256=header.sha256,
        complete=upload.complete,
        project=header.project,
    )
    message.expires_at.FromDatetime(upload.expires_at)
    return message


def _text(content: bytes) -> str:
    """The text of a file; nothing for one that is none."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return ""
