"""Shipping: a trained network as integers, as C99 and in further forms, all proved equal.

A leaf: it reads trained models, and nothing in the core knows of it.
"""
