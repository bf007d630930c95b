"""Pages of the web, fetched as their hosts allow, and the rows in them.

hosts.py       the hosts that the operator allows; connections to checked addresses only
fetcher.py     one page of one host: robots.txt, rate, conditions, limits, redirects, retries
documents.py   HTML and JSON: text encodings, rows, the next page
plan.py        what a collection is to do, and what is recorded of a page
contents.py    the pages of all collections, in the stores of blobs
folder.py      the files of a collection: pages by their hash, rows, journals, manifests
run.py         a collection, one thread a host
"""
