"""The page for browsers, as `make web` builds it from `client/web/` into `built/`.

serving.py       its files over HTTP
reports.py       a kit as one file, as `vistaflow report` writes it
built/           what the build makes; not committed, and in the wheel
"""
