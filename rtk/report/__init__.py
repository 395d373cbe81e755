"""What is made of results: pictures, and rows of other leaderboards.

    canvas.py       how a picture looks and is written; the one place that needs the extra `plots`
    pictures.py     results to pictures
    samples.py      from a folder to the images that an attack broke
    folder.py       `rtk plot`
    robustbench.py  RobustBench's description of a model: written of an evaluation, and read as a reference

Nothing here imports torch or matplotlib before it is needed.
"""
