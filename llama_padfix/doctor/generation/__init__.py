"""What a model generated, as facts: `answers` holds the record of one answer and why it did not end."""
