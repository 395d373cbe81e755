"""A benchmark as one web page that needs nothing else: no server, no network, no second file.

    build.py      from a benchmark's folder to the file
    page.py       templates, scripts and packed parts put together
    board.py      a table: columns, cells, flags
    figures.py    charts, each with the same in words and as a table
    labels.py     where the names of points go
    runs.py       what the page of one run says
    examples.py   adversarial images as pictures that a page can hold
    numbers.py    how numbers are written
    template/     HTML, CSS and the script

Needs the extra `site`: Jinja2, which escapes whatever comes from results, and Plotly, whose script the page carries.
"""
