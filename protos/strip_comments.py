"""Reduces descriptors to the comments that reflection adds to the generated code.

    python protos/strip_comments.py DESCRIPTOR_SET COMMENTS

Writes a compressed FileDescriptorSet whose files have only a name and the locations that have a
comment.
"""

import gzip
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2


def stripped(whole: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """The names and comments of the files."""
    comments = descriptor_pb2.FileDescriptorSet()
    for file in whole.file:
        reduced = comments.file.add(name=file.name)
        for location in file.source_code_info.location:
            if location.leading_comments or location.trailing_comments:
                del location.leading_detached_comments[:]
                reduced.source_code_info.location.append(location)
    return comments


def main(source: str, target: str) -> None:
    """Reads a descriptor set and writes its comments."""
    whole = descriptor_pb2.FileDescriptorSet.FromString(Path(source).read_bytes())
    text = stripped(whole).SerializeToString(deterministic=True)
    # Without a time, so that the same comments are the same bytes.
    Path(target).write_bytes(gzip.compress(text, 9, mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
