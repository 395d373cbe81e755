"""`python -m rtk.cli`: the command line without the installed script; how rtk starts itself."""

from . import leash, main

leash.watch()
main()
