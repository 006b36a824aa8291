"""The HTML form: one page that recognises digits drawn on it, or pictures."""
