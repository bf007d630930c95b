"""Blobs by content, in folders and S3 buckets, and the roots that inputs are named in.

blobs.py      the seam: what a store of blobs does, checked by SHA-256
folder.py     a store in a local folder
bucket.py      a store in an S3 bucket, by obstore
copies.py     several stores as one: rendezvous hashing, repair
opening.py    stores from their URLs, credentials from the environment
sweep.py      removal of unreferenced blobs after a grace time
roots.py      the roots of data that the operator declares, and the inputs in them
inputs.py     inputs as local files, downloaded from buckets
listing.py    files of a folder or a pattern, in the order of their partitions
"""
