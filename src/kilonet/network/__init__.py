"""A network as a list of layers, and what is read off it: graph, cost, torch module."""
