"""What some types do in their own way: a module each, named in the table of dialects."""
