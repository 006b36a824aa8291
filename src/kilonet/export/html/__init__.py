"""The HTML form: one page that recognises the digits drawn on it."""
