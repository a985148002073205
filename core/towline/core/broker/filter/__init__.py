"""The allow-list: rule files, patterns in linear time, and the decision what may pass and where it goes."""
