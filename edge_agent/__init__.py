"""The hospital's side: datasets, private training, privacy ledger, gate, exchange, inference."""
