"""What a careful look finds out about labelled images before anything is trained on them."""
