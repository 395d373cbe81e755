"""The built-in strategies. One file is one paper; each is registered in setup.cfg exactly as a third party's."""
