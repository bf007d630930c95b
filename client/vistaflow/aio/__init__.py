"""The client for asyncio: `async with vistaflow.aio.connect() as client: …`.

_kits/          kits and schedules
_data/          the methods for data: files, conversions, datasets, SQL

client.py       the methods for kits, jobs, rows, tokens
_stages.py      the methods for decks, designs, models, studies
_deliveries.py  the methods for webhooks and deliveries
_artifacts.py   the methods that read artifacts and logs
_calls.py       the connections and calls of all
_filters.py     filters from the words of a caller
_stream.py      many rows appended over one stream
_watch.py       a watch, and the loop that survives lost connections
_watch_many.py  several watches on one stream
"""

from vistaflow.aio.client import AsyncClient, connect

__all__ = ["AsyncClient", "connect"]
