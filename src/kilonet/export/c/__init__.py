"""The C99 form: tables beside a runtime that executes any of them."""
