"""What computes the training steps: the contract, choosing an engine, the one on torch and the native one."""
