"""`python -m rtk.cli`: the command line without the installed script."""

from . import main

main()
