"""Benchmarks: strategies x backbones x data x seeds, from one file to one table that goes on where it stopped.

    spec.py       the TOML file, and its cells' options multiplied out
    cells.py      a cell: one fine-tuning run, and the key of what is asked for
    store.py      the folder of a benchmark; the state of a cell is read from what lies there
    records.py    what tables need of a result
    index.py      the records of all results in one file, which may be deleted
    engines/      one process per cell, on this machine or on a Ray cluster
    compare.py    rows compared: seed by seed on the same images, with the best of them, and the Pareto front
    standings.py  finished cells to tables, seeds joined; what is not comparable is never in one table
    reported.py   what papers and RobustBench report
    formats.py    tables as text, Markdown, CSV and JSON
    difference.py two benchmarks compared; changes.py: that as text, Markdown, CSV and JSON

Nothing here imports torch; a wrong spec is refused before anything is begun.
"""
