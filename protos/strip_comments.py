"""Keeps of descriptors with source info what reflection adds to those in the generated code.

    python protos/strip_comments.py DESCRIPTOR_SET COMMENTS

Writes a FileDescriptorSet, compressed, whose files have their name and the places that have a
comment, and nothing else.
"""

import gzip
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2


def stripped(whole: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """The names and comments of the files."""
    made = descriptor_pb2.FileDescriptorSet()
    for file in whole.file:
        kept = made.file.add(name=file.name)
        for location in file.source_code_info.location:
            if location.leading_comments or location.trailing_comments:
                del location.leading_detached_comments[:]
                kept.source_code_info.location.append(location)
    return made


def main(source: str, target: str) -> None:
    """Reads a descriptor set and writes its comments."""
    whole = descriptor_pb2.FileDescriptorSet.FromString(Path(source).read_bytes())
    text = stripped(whole).SerializeToString(deterministic=True)
    # Without a time, so that the same comments are the same bytes.
    Path(target).write_bytes(gzip.compress(text, 9, mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
