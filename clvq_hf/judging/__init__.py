"""People and language models as judges of concepts."""
