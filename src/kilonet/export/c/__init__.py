"""The C99 form: the tables of a network and a runtime that executes them."""
