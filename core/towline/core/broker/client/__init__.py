"""The broker client: connections with their tunnels, the jobs they bring, and the agent's callbacks."""
