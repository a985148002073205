"""Programs: what is switched on. The command, the three programs, the demo, configuration and logs."""
