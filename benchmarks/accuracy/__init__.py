"""One table of what every method reaches with the same hospitals' images."""
