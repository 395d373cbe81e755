"""Benchmarks: strategies x backbones x data x seeds, from one file to one table that goes on where it stopped.

    spec.py       the TOML file, and its cells' options multiplied out
    cells.py      a cell: one fine-tuning run, and the key of everything that can change its number
    store.py      the folder of a benchmark; the state of a cell is read from what lies there
    engine.py     one process per cell
    standings.py  finished cells to tables, seeds joined; what is not comparable is never in one table
    formats.py    tables as text, Markdown, CSV and JSON

Only a cell's key and the intervals of results need heavy imports; a wrong spec is refused before.
"""
