"""Files of kits and decks on this machine.

kit_text.py    the kit.yaml of a kit
export.py      export: a kit with its points, pictures, deck and model as a folder
picture.py     picture: a picture of a kit as a file
folders.py     new folders that appear once they are complete
decks.py       new deck, decks --export
comparison.py  compare: the settings and results of kits side by side
"""
