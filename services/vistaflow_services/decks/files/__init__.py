"""deck.yaml: read with line numbers, checked, and described to editors.

document.py  YAML read with line numbers and without its traps
forms.py     what a deck.yaml may hold: each key with its form and limits
fields.py    the fields of a document, checked by their forms as they are read
loading.py   deck.yaml to a deck, every mistake at once
sources.py   templates, entries and functions, checked against what the deck declares
schema.py    the forms as a JSON Schema
"""
