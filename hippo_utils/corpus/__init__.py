"""From sources to records: loading, cleaning, deduplication, the contamination audit, the tokenizer, and the accounts of it all."""
