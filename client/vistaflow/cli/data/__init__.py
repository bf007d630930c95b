"""The commands for data jobs and datasets.

conversions.py  convert
queries.py      query, queries
collections.py  collect
datasets.py     datasets; dataset show, versions, profile, alias, pin, update, delete, forget
dataset.py      the commands of dataset in one place
delivery.py     deliver
rows.py         dataset read
imports.py      dataset import
import_file.py  the YAML file of an import or a collection
lineage.py      dataset lineage, show --lineage
figures.py      versions of datasets on a terminal
uploads.py      upload, and the bar of files on their way
"""
