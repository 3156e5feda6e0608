"""The live side: models answering about streams, by a deadline."""
