"""Client for the vistaflow services."""
