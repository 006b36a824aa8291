"""The HTML form: one page that recognises what is drawn on it."""
