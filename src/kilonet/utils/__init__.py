"""What every room uses and knows nothing of networks: errors, files, text tables, checked data, the machine."""
