"""Engines compute the training steps: the contract, the choice of an engine, the torch engine and the native engine."""
