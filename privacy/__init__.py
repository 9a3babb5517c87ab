"""Patient-level differential privacy: the bounded step, its noise, its price, its ledger."""
