"""The learning-rate range test: train a few hundred steps at rising rates, and see where the loss falls and where it
breaks.

Source: L. N. Smith, "Cyclical learning rates for training neural networks", 2015, section 3.3; the exponential rise, the
smoothing and the stop are S. Gugger's, "How do you find a good learning rate", 2018.
"""
