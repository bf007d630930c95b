"""Pictures of a kit that are drawn when someone asks for one, in the format that is wanted.

catalog.py    the table of pictures; draws one
subject.py    what a picture is drawn of, read from the results of a kit
style.py      colours, marks, axes and the corner that all pictures share
surfaces.py   the model along parameters: effects, slices, contours
relations.py  all points at once: parallel coordinates, importance, correlation
timeline.py   when the jobs ran
"""
