"""The service: one model behind HTTP, with a page to draw on.

A request passes through these modules in turn: `protocol` (timeouts of the socket), `gate` (limits, counts, one log
line), `app` (routes), `answering` (decodes and classifies images in threads), `classifiers` (computes logits).
"""
