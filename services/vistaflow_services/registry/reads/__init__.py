"""Kits, jobs and rows as they are and as they were.

store.py         every read, each as of one moment
listing.py       pages of kits, jobs and rows
list_queries.py  the queries of these pages, one for each kind of filter
past.py          kits as they were, and the jobs that match a filter of a change
history.py       a kit as of a revision, and the difference of two; pure
differences.py   that difference as a message
cache.py         kits in memory, kept up to date with the log
trees.py         a kit in the cache, its jobs and tasks in wire form
tree_pages.py    a kit that is too large for one message, in pages
page_cache.py    answered pages of these, in memory
"""
