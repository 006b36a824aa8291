"""The service: one model behind HTTP, with a page to draw on.

A leaf that stands on another, `ship`. The way of a request, each a module: `protocol` (the socket's timers), `gate`
(limits, counts, a line in the log), `straight` (past the routes, for single images), `app` (routes), `answering`
(images to answers, in threads), `engine` (logits).
"""
