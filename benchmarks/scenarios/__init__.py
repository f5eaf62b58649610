"""What is measured: each function here takes who is to be measured and returns a table."""
